package objects

import (
	"fmt"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/ownership"
)

// ContentVersionAnnotation is an annotation whose change makes the kubelet sync a pod at
// once. It exists in the effective object only: it is neither stored nor reported.
const ContentVersionAnnotation = "petiole.dev/content-version"

// Local is the last message of one subject of SITE_REPORTED: the local state of an object. It
// must not be modified once the store has it.
type Local struct {
	Op  streams.Op
	UID string
	// Node is the node token of its subject.
	Node string
	// Body is the object, or only the status of a pod that the cloud knows.
	Body []byte
	// Version is the desired version that a deletion refers to, empty if the cloud never had
	// the object.
	Version string
	// Seq is its sequence in SITE_REPORTED, 0 if it is in memory only.
	Seq uint64
	// InReplyTo is the Desired.Arrival of the message that a deletion was reported for, 0
	// if that was before the start.
	InReplyTo uint64
}

// State is what the store knows about one name.
type State struct {
	// Effective is the object that clients see, nil if there is none.
	Effective *Object
	// Live is set if the cloud wants the object. Desired is its current message then.
	Live    bool
	Desired Desired
	// Local is the local state, nil if there is none.
	Local *Local
	// tombstoned is set if the cloud has deleted the object.
	tombstoned bool
}

// EndUnreported reports whether the cloud wants a pod that has ended here, and its end has
// not been reported since the cloud asked for it. This happens after a restore of etcd: the
// pod exists again, but the report of its end has been consumed.
func (s State) EndUnreported() bool {
	l := s.Local
	return s.Live && l != nil && l.Op == streams.OpDelete && l.UID == s.Desired.UID && l.InReplyTo != s.Desired.Arrival
}

// Obsolete reports whether the local message about a pod is no longer needed once the hub
// has it.
func (s State) Obsolete() bool {
	l := s.Local
	if l == nil || l.Seq == 0 {
		return false
	}
	switch {
	case s.Live && l.Op == streams.OpCreate:
		return true
	case s.Live:
		return s.Desired.UID != l.UID
	case l.Op == streams.OpDelete && l.Version == "":
		return true
	}
	return l.Op != streams.OpCreate && s.tombstoned
}

// entry holds everything that is known about one name.
type entry struct {
	// desired is keyed by the node of the subject.
	desired map[string]Desired
	local   *Local
	// contentVersion is the value of ContentVersionAnnotation, empty before the first change
	// of a mounted object.
	contentVersion string
	// createdRV is the resource version at which the effective object was created.
	createdRV uint64
	// effective is the object that clients see, nil if there is none: desired state merged
	// with local state.
	effective *Object
	// pods holds the pods of an EndpointSlice.
	pods sets.Set[Key]
}

// liveDesired returns the current desired message, and false if there is none.
func (e *entry) liveDesired() (Desired, bool) {
	var best Desired
	found := false
	for _, d := range e.desired {
		if !d.deleted && (!found || d.newerThan(best)) {
			best, found = d, true
		}
	}
	return best, found
}

func (e *entry) state() State {
	d, live := e.liveDesired()
	return State{Effective: e.effective, Desired: d, Live: live, Local: e.local, tombstoned: !live && len(e.desired) > 0}
}

// uid returns the UID of the effective object, empty if there is none.
func (e *entry) uid() string {
	if e.effective == nil {
		return ""
	}
	return e.effective.UID
}

func (e *entry) unused() bool { return e.local == nil && len(e.desired) == 0 && e.effective == nil }

// isMerged reports whether the effective objects of a resource differ from their desired
// bodies, which must then be kept.
func isMerged(gr schema.GroupResource) bool {
	return gr == Pods || gr == Nodes || gr == EndpointSlices
}

// merge returns the effective object, nil if there is none.
func merge(gr schema.GroupResource, e *entry) (Document, error) {
	d, live := e.liveDesired()
	switch gr {
	case Pods:
		return mergePod(e, d, live)
	case Nodes:
		return mergeNode(e, d, live)
	}
	switch {
	case e.local != nil && e.local.Op != streams.OpDelete:
		return ParseDocument(e.local.Body)
	case live && (gr == ConfigMaps || gr == Secrets):
		return mergeMounted(d)
	case live:
		return ParseDocument(d.Body)
	}
	return nil, nil
}

// mergeMounted returns the desired ConfigMap or Secret without the mark that it is immutable. A
// kubelet no longer watches an immutable object once it has read it: if the object is deleted and
// created again in the cloud, pods that start afterwards would get the former content for as long as
// a pod that is older runs on the node (Get of pkg/kubelet/util/manager/watch_based_manager.go).
func mergeMounted(d Desired) (Document, error) {
	o, err := ParseDocument(d.Body)
	if err == nil {
		delete(o, "immutable")
	}
	return o, err
}

// mergePod returns the desired pod with the local status, if that belongs to the same pod. The
// parts of a status that the control plane owns are the desired pod's.
func mergePod(e *entry, d Desired, live bool) (Document, error) {
	l := e.local
	switch {
	case !live && l != nil && l.Op == streams.OpCreate:
		return ParseDocument(l.Body)
	case !live, l != nil && l.Op == streams.OpDelete && l.UID == d.UID:
		return nil, nil
	}
	pod, err := ParseDocument(d.Body)
	if err != nil {
		return nil, err
	}
	if l != nil && l.Op == streams.OpPut && l.UID == d.UID {
		if pod["status"], err = mergePodStatus(pod["status"], l.Body); err != nil {
			return nil, err
		}
	}
	if e.contentVersion == "" || e.effective == nil || e.effective.UID != d.UID {
		return pod, nil
	}
	meta, err := pod.Child("metadata")
	if err != nil {
		return nil, err
	}
	annotations, err := meta.Child("annotations")
	if err != nil {
		return nil, err
	}
	annotations.SetText(ContentVersionAnnotation, e.contentVersion)
	meta["annotations"] = annotations.Encode()
	pod["metadata"] = meta.Encode()
	return pod, nil
}

// mergeNode returns the desired node, if there is one, with the local status, but for the parts
// that the control plane owns, and the local labels and annotations that the desired node does
// not have.
func mergeNode(e *entry, d Desired, live bool) (Document, error) {
	l := e.local
	if l == nil || l.Op == streams.OpDelete {
		if !live {
			return nil, nil
		}
		return ParseDocument(d.Body)
	}
	own, err := ParseDocument(l.Body)
	if err != nil || !live {
		return own, err
	}
	node, err := ParseDocument(d.Body)
	if err != nil {
		return nil, err
	}
	meta, err := node.Child("metadata")
	if err != nil {
		return nil, err
	}
	ownMeta, err := own.Child("metadata")
	if err != nil {
		return nil, err
	}
	for _, field := range []string{"labels", "annotations"} {
		if err := mergeStrings(meta, ownMeta, field); err != nil {
			return nil, fmt.Errorf("metadata.%s: %w", field, err)
		}
	}
	node["metadata"] = meta.Encode()
	if IsEmpty(own["status"]) {
		return node, nil
	}
	status, err := own.Child("status")
	if err != nil {
		return nil, err
	}
	desired, err := node.Child("status")
	if err != nil {
		return nil, err
	}
	node["status"] = desiredFields(status, desired, ownership.NodeStatusFields).Encode()
	return node, nil
}
