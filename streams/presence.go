package streams

import (
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// PresenceInterval is the time between two heartbeats of a leaf. It sends another one as
// soon as its link comes up.
const PresenceInterval = 10 * time.Second

// PresenceTimeout is the time without a heartbeat after which a site counts as
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
	// Applied is the last sequence of SITE_DESIRED that the node API has applied.
	Applied uint64 `json:"applied"`
	// AppliedHub is the same position as a sequence of DESIRED, 0 if it is unknown.
	AppliedHub uint64 `json:"appliedHub,omitempty"`
	// Unapplied counts the messages of SITE_DESIRED that are stored but not yet applied by
	// the node API or the device worker.
	Unapplied uint64 `json:"unapplied,omitempty"`
	// Quarantined counts the messages that the leaf could not read.
	Quarantined uint64 `json:"quarantined,omitempty"`
	// Dropped counts the records that a limit of the site dropped before the hub had
	// them, since the site's store was created.
	Dropped uint64 `json:"dropped,omitempty"`
	// Degraded lists the leaf's present problems (DegradedDiskFull, ...), sorted.
	Degraded []string `json:"degraded,omitempty"`
	// ReportedPending and TelemetryPending count the messages that wait for the link.
	ReportedPending  uint64 `json:"reportedPending,omitempty"`
	TelemetryPending uint64 `json:"telemetryPending,omitempty"`
}

// The problems that Presence.Degraded can list.
const (
	// DegradedDiskFull: the store refuses to grow; producers get errors.
	DegradedDiskFull = "DiskFull"
	// DegradedStore: a damaged stream of the site's store was moved away and created again.
	DegradedStore = "StoreRebuilt"
	// DegradedOpen: the gateway's own nats-server accepts clients without authentication.
	DegradedOpen = "NoAuthentication"
)

// InventoryInterval is the time between two comparisons of a connected site's inventory
// with the bridge's. A site also compares at the start of each session.
const InventoryInterval = 10 * time.Minute

// NodePresence is the time at which a node's kubelet last renewed its lease at the node
// API, by the clock of Presence.Time.
type NodePresence struct {
	Name    string    `json:"name"`
	Renewed time.Time `json:"renewed"`
}

// The requests that a site can send to the bridge: the last token of RequestSubject.
const (
	// RequestToken asks for a service account token: a TokenQuery, answered by a
	// TokenAnswer.
	RequestToken = "token"
)

// TokenQuery asks for a bound service account token on behalf of a node.
type TokenQuery struct {
	Node           string                        `json:"node"`
	Namespace      string                        `json:"namespace"`
	ServiceAccount string                        `json:"serviceAccount"`
	TokenRequest   authenticationv1.TokenRequest `json:"tokenRequest"`
}

// TokenAnswer carries the completed TokenRequest, or the API server's error.
type TokenAnswer struct {
	TokenRequest *authenticationv1.TokenRequest `json:"tokenRequest,omitempty"`
	Status       *metav1.Status                 `json:"status,omitempty"`
}
