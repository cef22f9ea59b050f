package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// ConditionConnected is the type of the Site condition that repeats
// SiteStatus.Connected with a reason.
const ConditionConnected = "Connected"

// Site is a place with its own leaf. Its name is the site id: the account at the hub,
// the JetStream domain of the leaf, and the value of the label petiole.dev/site on
// its nodes.
type Site struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   SiteSpec   `json:"spec,omitempty"`
	Status SiteStatus `json:"status,omitempty"`
}

// SiteSpec is what people say about a site.
type SiteSpec struct {
	// Description is for people; nothing reads it.
	Description string `json:"description,omitempty"`
}

// SiteStatus is what the bridge knows about a site.
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
	// Applied is the last sequence of the leaf's SITE_DESIRED that its node API has
	// taken over.
	Applied int64 `json:"applied,omitempty"`
	// Quarantined counts the messages that the leaf could not read.
	Quarantined int64 `json:"quarantined,omitempty"`
	// Version is the leaf's.
	Version string `json:"version,omitempty"`
	// Conditions holds ConditionConnected.
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// SiteList is a list of sites.
type SiteList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []Site `json:"items"`
}
