package streams

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"strings"
	"time"
	"unicode"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// PresenceInterval is the time between two heartbeats of a leaf. It sends another one as
// soon as its link comes up.
const PresenceInterval = 10 * time.Second

// PresenceTimeout is the time without a heartbeat after which a site counts as
// disconnected, unless its leaf sends them less often: see Presence.Timeout.
const PresenceTimeout = 25 * time.Second

// maxPresenceInterval bounds Presence.Interval: a site must not be able to count as connected for
// hours after its last heartbeat.
const maxPresenceInterval = 5 * time.Minute

// Timeout returns the time after this heartbeat without another one after which the site counts as
// disconnected: two and a half intervals.
func (p Presence) Timeout() time.Duration {
	interval := min(max(time.Duration(min(p.Interval, 3600))*time.Second, PresenceInterval), maxPresenceInterval)
	return max(PresenceTimeout, interval*5/2)
}

// Presence is a site's heartbeat, published to PresenceSubject and not stored.
type Presence struct {
	Site string `json:"site"`
	// Time is the leaf's clock when it sent the heartbeat.
	Time    time.Time `json:"time"`
	Version string    `json:"version,omitempty"`
	// Boot changes at each start of the leaf.
	Boot string `json:"boot"`
	// Interval is the time until the next heartbeat, in seconds, 0 for PresenceInterval.
	Interval int64 `json:"interval,omitempty"`
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
	// Details are sentences about the problems, for people.
	Details []string `json:"details,omitempty"`
	// ReportedPending and TelemetryPending count the messages that wait for the link.
	ReportedPending  uint64 `json:"reportedPending,omitempty"`
	TelemetryPending uint64 `json:"telemetryPending,omitempty"`
}

// The bounds of a heartbeat. What a heartbeat says is written to the Site's status, whose
// schema has the same bounds.
const (
	// MaxSiteNodes is the number of nodes that one site can have.
	MaxSiteNodes = 1000
	// MaxPresenceBytes leaves room for MaxSiteNodes nodes.
	MaxPresenceBytes = 256 << 10
	// MaxPresenceName bounds each name, version and boot ID, in bytes.
	MaxPresenceName = 253
	// MaxDegraded bounds the number of problems, MaxDegradedReason each of them in bytes.
	MaxDegraded       = 32
	MaxDegradedReason = 128
	// MaxDetails bounds the number of sentences about problems, MaxDetail each of them in bytes.
	MaxDetails = 16
	MaxDetail  = 512
)

// DegradedPattern matches the reason of a condition.
var DegradedPattern = regexp.MustCompile(`^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$`)

// DecodePresence decodes a heartbeat. It returns an error if the heartbeat exceeds one of
// the bounds. Counters above the largest integer of the Kubernetes API are reduced to it.
func DecodePresence(data []byte) (Presence, error) {
	var p Presence
	if len(data) > MaxPresenceBytes {
		return p, fmt.Errorf("heartbeat has %d bytes, the limit is %d", len(data), MaxPresenceBytes)
	}
	if err := CheckJSON(data, MaxSiteNodes+16); err != nil {
		return p, err
	}
	if err := json.Unmarshal(data, &p); err != nil {
		return p, fmt.Errorf("decode heartbeat: %w", err)
	}
	for _, s := range []string{p.Site, p.Version, p.Boot} {
		if len(s) > MaxPresenceName || strings.ContainsFunc(s, unicode.IsControl) {
			return p, fmt.Errorf("heartbeat has a name of %d bytes, which is longer than %d or has control characters", len(s), MaxPresenceName)
		}
	}
	for _, n := range p.Nodes {
		if len(n.Name) > MaxPresenceName {
			return p, fmt.Errorf("heartbeat has a node name of %d bytes, the limit is %d", len(n.Name), MaxPresenceName)
		}
	}
	if len(p.Degraded) > MaxDegraded {
		return p, fmt.Errorf("heartbeat lists %d problems, the limit is %d", len(p.Degraded), MaxDegraded)
	}
	for _, s := range p.Degraded {
		if len(s) > MaxDegradedReason || !DegradedPattern.MatchString(s) {
			return p, fmt.Errorf("heartbeat lists a problem of %d bytes, which is longer than %d or does not match %s", len(s), MaxDegradedReason, DegradedPattern)
		}
	}
	if len(p.Details) > MaxDetails {
		return p, fmt.Errorf("heartbeat has %d sentences about problems, the limit is %d", len(p.Details), MaxDetails)
	}
	for _, s := range p.Details {
		if len(s) > MaxDetail || strings.ContainsFunc(s, unicode.IsControl) {
			return p, fmt.Errorf("heartbeat has a sentence of %d bytes about a problem, which is longer than %d or has control characters", len(s), MaxDetail)
		}
	}
	for _, n := range []*uint64{&p.Applied, &p.AppliedHub, &p.Unapplied, &p.Quarantined, &p.Dropped, &p.ReportedPending, &p.TelemetryPending} {
		*n = min(*n, math.MaxInt64)
	}
	return p, nil
}

// CheckJSON returns an error if a document has more than limit objects and lists. It bounds
// the memory that decoding takes: empty objects need far more of it than their two bytes.
func CheckJSON(data []byte, limit int) error {
	if n := bytes.Count(data, []byte("{")) + bytes.Count(data, []byte("[")); n > limit {
		return fmt.Errorf("document has %d objects and lists, the limit is %d", n, limit)
	}
	return nil
}

// The problems that Presence.Degraded can list.
const (
	// DegradedDiskFull: the store refuses to grow; producers get errors.
	DegradedDiskFull = "DiskFull"
	// DegradedStore: a damaged stream of the site's store was moved away and created again.
	DegradedStore = "StoreRebuilt"
	// DegradedOpen: the gateway's own nats-server accepts clients without authentication.
	DegradedOpen = "NoAuthentication"
	// DegradedReportsRefused: the hub has no room for more reports of the site; they wait there.
	DegradedReportsRefused = "ReportsRefused"
	// DegradedSetAside: a record that the hub or the line cannot take was moved to SITE_QUARANTINE.
	DegradedSetAside = "RecordsSetAside"
	// DegradedHub: the hub lacks something that a site needs.
	DegradedHub = "HubIncomplete"
	// DegradedClock: the gateway's clock differs from the hub's.
	DegradedClock = "ClockSkewed"
	// DegradedKubelet: the kubelet exits again and again, or does not renew its node's lease.
	DegradedKubelet = "KubeletFailing"
)

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
	// RequestPodCertificate asks for a PodCertificateRequest to be created: a
	// PodCertificateQuery, answered by a PodCertificateAnswer.
	RequestPodCertificate = "podcertificate"
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

// PodCertificateQuery asks for a PodCertificateRequest on behalf of a node.
type PodCertificateQuery struct {
	Node      string                                   `json:"node"`
	Namespace string                                   `json:"namespace"`
	Spec      certificatesv1.PodCertificateRequestSpec `json:"spec"`
}

// PodCertificateAnswer carries the PodCertificateRequest that was created, or the API server's
// error.
type PodCertificateAnswer struct {
	Request *certificatesv1.PodCertificateRequest `json:"request,omitempty"`
	Status  *metav1.Status                        `json:"status,omitempty"`
}
