package streams

import (
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// PresenceInterval is how often a leaf says that it is there, beside at once when its
// link comes up.
const PresenceInterval = 10 * time.Second

// PresenceTimeout is after how long without a heartbeat a site counts as
// disconnected.
const PresenceTimeout = 25 * time.Second

// Presence is a site's heartbeat, published to PresenceSubject and not stored.
type Presence struct {
	Site string `json:"site"`
	// Time is the leaf's clock when it sent the heartbeat.
	Time    time.Time `json:"time"`
	Version string    `json:"version,omitempty"`
	// Boot changes at each start of the leaf.
	Boot string `json:"boot"`
	// LinkSince is when the link to the hub last came up.
	LinkSince time.Time      `json:"linkSince"`
	Nodes     []NodePresence `json:"nodes,omitempty"`
	// Applied is the last sequence of SITE_DESIRED that the node API has taken over.
	Applied uint64 `json:"applied"`
	// AppliedHub is the same position as a sequence of DESIRED, 0 when not known.
	AppliedHub uint64 `json:"appliedHub,omitempty"`
	// Unapplied counts the messages of SITE_DESIRED that are stored and not taken over
	// yet by the node API or the device worker.
	Unapplied uint64 `json:"unapplied,omitempty"`
	// Quarantined counts the messages that the leaf could not read.
	Quarantined uint64 `json:"quarantined,omitempty"`
	// Dropped counts the records that a limit of the site dropped before the hub had
	// them, since its store was made.
	Dropped uint64 `json:"dropped,omitempty"`
	// Degraded names what is wrong with the leaf now (DegradedDiskFull, ...), sorted;
	// empty when nothing is.
	Degraded []string `json:"degraded,omitempty"`
	// ReportedPending and TelemetryPending count what waits for the link.
	ReportedPending  uint64 `json:"reportedPending,omitempty"`
	TelemetryPending uint64 `json:"telemetryPending,omitempty"`
}

// What Presence.Degraded may name.
const (
	// DegradedDiskFull: the store refuses to grow; producers get errors.
	DegradedDiskFull = "DiskFull"
	// DegradedStore: a stream of the site's store had to be set aside and made anew.
	DegradedStore = "StoreRebuilt"
	// DegradedOpen: the gateway's own nats-server lets anybody in without authentication.
	DegradedOpen = "NoAuthentication"
)

// ManifestInterval is how often a site that is connected compares its manifest, beside
// after each start of a session.
const ManifestInterval = 10 * time.Minute

// NodePresence says when a node's kubelet last renewed its lease at the node API, by
// the clock of Presence.Time.
type NodePresence struct {
	Name    string    `json:"name"`
	Renewed time.Time `json:"renewed"`
}

// Requests a site may make of the bridge, the last token of RequestSubject.
const (
	// RequestToken asks for a service account token: a TokenQuery, answered by a
	// TokenAnswer.
	RequestToken = "token"
)

// TokenQuery asks for a bound service account token in a node's name.
type TokenQuery struct {
	Node           string                        `json:"node"`
	Namespace      string                        `json:"namespace"`
	ServiceAccount string                        `json:"serviceAccount"`
	TokenRequest   authenticationv1.TokenRequest `json:"tokenRequest"`
}

// TokenAnswer carries the filled TokenRequest, or the API server's refusal.
type TokenAnswer struct {
	TokenRequest *authenticationv1.TokenRequest `json:"tokenRequest,omitempty"`
	Status       *metav1.Status                 `json:"status,omitempty"`
}
