package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// ResyncAnnotation on a Site asks that the site gets everything anew; each new value
// asks once. SiteResync.Requested repeats the value that was carried out last.
const ResyncAnnotation = "petiole.dev/resync"

// Site is a place with its own leaf. Its name is the site id: the account at the hub,
// the JetStream domain of the leaf, and the value of the label petiole.dev/site on
// its nodes.
//
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object
type Site struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   SiteSpec   `json:"spec,omitempty"`
	Status SiteStatus `json:"status,omitempty"`
}

// SiteList is a list of sites.
//
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object
type SiteList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []Site `json:"items"`
}

// SiteSpec is what people say about a site.
type SiteSpec struct {
	// Description is for people; nothing reads it.
	Description string `json:"description,omitempty"`
}

// SiteStatus is what the bridge knows about a site. What only the leaf knows is as of
// its last heartbeat. Numbers that move all the time are written every 10 s at most.
type SiteStatus struct {
	// Connected says whether the site's leaf was heard within the last 25 seconds.
	Connected bool `json:"connected"`
	// Since is when Connected last changed.
	Since *metav1.Time `json:"since,omitempty"`
	// Nodes counts the Node objects that belong to the site.
	Nodes int32 `json:"nodes"`

	// Pending counts the objects that the site has not stored yet.
	Pending int64 `json:"pending"`
	// OldestPending is when the oldest of them was published.
	OldestPending *metav1.Time `json:"oldestPending,omitempty"`
	// LastAck is when the site last confirmed that it has stored something.
	LastAck *metav1.Time `json:"lastAck,omitempty"`
	// Stored is the sequence of the hub's stream DESIRED up to which the site has
	// stored everything.
	Stored int64 `json:"stored,omitempty"`

	// Unapplied counts the stored messages that the site's node API or device worker has
	// not taken over yet.
	Unapplied int64 `json:"unapplied"`
	// Applied is the last sequence of the leaf's own stream SITE_DESIRED that its node
	// API has taken over.
	Applied int64 `json:"applied,omitempty"`
	// AppliedHub is the same position as a sequence of DESIRED, absent when not known.
	AppliedHub int64 `json:"appliedHub,omitempty"`

	// Unobserved counts the pods and devices of the site whose status in the API does not
	// speak of their newest version yet.
	Unobserved int32 `json:"unobserved"`

	// ReportedPending and TelemetryPending count what waits at the site for the link.
	ReportedPending  int64 `json:"reportedPending,omitempty"`
	TelemetryPending int64 `json:"telemetryPending,omitempty"`
	// Quarantined counts the messages that the leaf could not read since it started.
	Quarantined int64 `json:"quarantined"`
	// Dropped counts the records that a limit of the site dropped before the hub had
	// them, since its store was made.
	Dropped int64 `json:"dropped,omitempty"`
	// Degraded names what is wrong with the leaf now, such as DiskFull.
	// +listType=set
	Degraded []string `json:"degraded,omitempty"`

	// Version is the leaf's.
	Version string `json:"version,omitempty"`
	// Boot changes at each start of the leaf.
	Boot string `json:"boot,omitempty"`
	// DuplicateSeen is when two leaves were last heard that both call themselves by the
	// name of this site.
	DuplicateSeen *metav1.Time `json:"duplicateSeen,omitempty"`

	// Epoch names the API server's storage whose versions the site gets; it changes when
	// that storage is restored or replaced.
	Epoch string `json:"epoch,omitempty"`
	// Term is the term of the bridge that wrote this.
	Term int64 `json:"term,omitempty"`
	// LastCheck is the last comparison of what the site has with what it should have.
	LastCheck *SiteCheck `json:"lastCheck,omitempty"`
	// Mismatches counts the comparisons that found a difference, which was repaired.
	Mismatches int64 `json:"mismatches,omitempty"`
	// Resync is the last time that the site was told to take everything anew.
	Resync *SiteResync `json:"resync,omitempty"`

	// Conditions holds ConditionConnected, ConditionSynced and ConditionHealthy.
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// SiteCheck is a comparison of a site's manifest with the bridge's.
type SiteCheck struct {
	Time metav1.Time `json:"time"`
	// Outcome is equal, or repairing: it differs, and what differs is published again.
	Outcome string `json:"outcome"`
}

// SiteResync is a full resync.
type SiteResync struct {
	Time metav1.Time `json:"time,omitzero"`
	// Reason is Requested, or why the bridge did it by itself.
	Reason string `json:"reason,omitempty"`
	// Requested is the value of ResyncAnnotation that was carried out last.
	Requested string `json:"requested,omitempty"`
}
