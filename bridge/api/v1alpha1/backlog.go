package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// BacklogLimit is the most objects that one Backlog lists.
const BacklogLimit = 1000

// Backlog asks the bridge which objects a site has not stored yet. The bridge answers
// once, in the status, and deletes a Backlog that is older than a minute. The answer
// holds names, never contents.
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

// BacklogSpec is the question. It cannot be changed.
type BacklogSpec struct {
	// Site is the name of a Site.
	Site string `json:"site"`
	// After asks for what follows that sequence: the Next of an earlier answer. Absent, it
	// is where the site's acknowledgements end.
	After int64 `json:"after,omitempty"`
	// Limit bounds the answer, 1 to BacklogLimit; absent: BacklogLimit.
	Limit int32 `json:"limit,omitempty"`
}

// BacklogStatus is the answer.
type BacklogStatus struct {
	// Time is when it was given; absent: not yet.
	Time *metav1.Time `json:"time,omitempty"`
	// Error says why there is no answer.
	Error string `json:"error,omitempty"`
	// Pending counts all objects that the site has not stored.
	Pending int64 `json:"pending,omitempty"`
	// Items are those after BacklogSpec.After, oldest first.
	// +listType=atomic
	Items []PendingObject `json:"items,omitempty"`
	// Next is where to go on, absent when there is no more. An object that is changed
	// while a long backlog is read comes again, later.
	Next int64 `json:"next,omitempty"`
}

// PendingObject is one object that a site has not stored in its newest version.
type PendingObject struct {
	// Group is empty for the core API group, Namespace for a cluster-scoped object.
	Group     string `json:"group,omitempty"`
	Resource  string `json:"resource"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	// Node is the node that the object is bound to, empty when it is the whole site's.
	Node string `json:"node,omitempty"`
	// Change is put or delete.
	Change string `json:"change"`
	// Published is when the hub got it.
	Published metav1.Time `json:"published"`
	// Bytes is the size of its message without headers.
	Bytes int64 `json:"bytes"`
	// Sequence is its place in the hub's stream DESIRED.
	Sequence int64 `json:"sequence"`
}
