package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// BacklogLimit is the most objects that one Backlog lists.
const BacklogLimit = 1000

// Backlog is a request for the objects that a site has not stored yet. The bridge answers
// once, in the status, and deletes a Backlog that is older than a minute. The answer
// contains names, never contents.
//
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object
type Backlog struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   BacklogSpec   `json:"spec"`
	Status BacklogStatus `json:"status,omitempty"`
}

// BacklogList is a list of backlogs.
//
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object
type BacklogList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []Backlog `json:"items"`
}

// BacklogSpec is the request. It is immutable.
type BacklogSpec struct {
	// Site is the name of a Site.
	Site string `json:"site"`
	// After lists only messages after that sequence: the Next of an earlier answer. If
	// absent, the list starts after the site's last acknowledgement.
	After int64 `json:"after,omitempty"`
	// Limit is the maximum number of items, 1 to BacklogLimit; absent: BacklogLimit.
	Limit int32 `json:"limit,omitempty"`
}

// BacklogStatus is the answer.
type BacklogStatus struct {
	// Time is when the bridge answered; absent before.
	Time *metav1.Time `json:"time,omitempty"`
	// Error is the reason why the request failed.
	Error string `json:"error,omitempty"`
	// Pending counts all objects that the site has not stored.
	Pending int64 `json:"pending,omitempty"`
	// Items are the objects after BacklogSpec.After, oldest first.
	// +listType=atomic
	Items []PendingObject `json:"items,omitempty"`
	// Next is the value of After for the next part, absent if there is none. An object
	// that changes while a long backlog is read is listed again, later.
	Next int64 `json:"next,omitempty"`
}

// PendingObject is one object that a site has not stored in its newest version.
type PendingObject struct {
	// Group is empty for the core API group, Namespace for a cluster-scoped object.
	Group     string `json:"group,omitempty"`
	Resource  string `json:"resource"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	// Node is the node that the object is bound to, empty if it belongs to the whole site.
	Node string `json:"node,omitempty"`
	// Change is put or delete.
	Change string `json:"change"`
	// Published is when the hub stored it.
	Published metav1.Time `json:"published"`
	// Bytes is the size of the message without headers.
	Bytes int64 `json:"bytes"`
	// Sequence is the sequence of the message in the hub's stream DESIRED.
	Sequence int64 `json:"sequence"`
}
