package nodeapi

import (
	"fmt"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/petiole-io/petiole/streams"
)

// contentVersionAnnotation is an annotation whose change makes the kubelet sync a pod at
// once. It exists in the effective object only: it is neither stored nor reported.
const contentVersionAnnotation = "petiole.dev/content-version"

// local is the last message of one subject of SITE_REPORTED: the local state of an object.
type local struct {
	op  streams.Op
	uid string
	// node is the node token of its subject.
	node string
	// body is the object, or only the status of a pod that the cloud knows.
	body []byte
	// version is the desired version that a deletion refers to, empty if the cloud never had
	// the object.
	version string
	// seq is its sequence in SITE_REPORTED, 0 if it is in memory only.
	seq uint64
	// inReplyTo is the desired.arrival of the message that a deletion was reported for, 0
	// if that was before the start.
	inReplyTo uint64
}

// endUnreported reports whether the cloud wants a pod that has ended here, and its end has
// not been reported since the cloud asked for it. This happens after a restore of etcd: the
// pod exists again, but the report of its end has been consumed.
func (e *entry) endUnreported() (desired, bool) {
	d, live := e.liveDesired()
	l := e.local
	return d, live && l != nil && l.op == streams.OpDelete && l.uid == d.uid && l.inReplyTo != d.arrival
}

// obsolete reports whether the local message about a pod is no longer needed once the hub
// has it.
func (e *entry) obsolete() bool {
	l := e.local
	if l == nil || l.seq == 0 {
		return false
	}
	d, live := e.liveDesired()
	switch {
	case live && l.op == streams.OpCreate:
		return true
	case live:
		return d.uid != l.uid
	case l.op == streams.OpDelete && l.version == "":
		return true
	}
	return l.op != streams.OpCreate && e.tombstoned()
}

// entry holds everything that is known about one name.
type entry struct {
	// desired is keyed by the node of the subject.
	desired map[string]desired
	local   *local
	// contentVersion is the value of contentVersionAnnotation, empty before the first change
	// of a mounted object.
	contentVersion string
	// createdRV is the resource version at which the effective object was created.
	createdRV uint64
	// effective is the object that clients see, nil if there is none: desired state merged
	// with local state.
	effective *object
}

// liveDesired returns the current desired message, and false if there is none.
func (e *entry) liveDesired() (desired, bool) {
	var best desired
	found := false
	for _, d := range e.desired {
		if !d.deleted && (!found || d.newerThan(best)) {
			best, found = d, true
		}
	}
	return best, found
}

// tombstoned reports whether the cloud has deleted the object.
func (e *entry) tombstoned() bool {
	_, live := e.liveDesired()
	return !live && len(e.desired) > 0
}

// uid returns the UID of the effective object, empty if there is none.
func (e *entry) uid() string {
	if e.effective == nil {
		return ""
	}
	return e.effective.uid
}

func (e *entry) unused() bool { return e.local == nil && len(e.desired) == 0 && e.effective == nil }

// isMerged reports whether the effective objects of a resource differ from their desired
// bodies, which must then be kept.
func isMerged(gr schema.GroupResource) bool { return gr == podsGR || gr == nodesGR }

// merge returns the effective object, nil if there is none.
func merge(gr schema.GroupResource, e *entry) (document, error) {
	d, live := e.liveDesired()
	switch gr {
	case podsGR:
		return mergePod(e, d, live)
	case nodesGR:
		return mergeNode(e, d, live)
	}
	switch {
	case e.local != nil && e.local.op != streams.OpDelete:
		return parseDocument(e.local.body)
	case live:
		return parseDocument(d.body)
	}
	return nil, nil
}

// mergePod returns the desired pod with the local status, if that belongs to the same pod.
func mergePod(e *entry, d desired, live bool) (document, error) {
	l := e.local
	switch {
	case !live && l != nil && l.op == streams.OpCreate:
		return parseDocument(l.body)
	case !live, l != nil && l.op == streams.OpDelete && l.uid == d.uid:
		return nil, nil
	}
	pod, err := parseDocument(d.body)
	if err != nil {
		return nil, err
	}
	if l != nil && l.op == streams.OpPut && l.uid == d.uid {
		pod["status"] = l.body
	}
	if e.contentVersion == "" || e.effective == nil || e.effective.uid != d.uid {
		return pod, nil
	}
	meta, err := pod.child("metadata")
	if err != nil {
		return nil, err
	}
	annotations, err := meta.child("annotations")
	if err != nil {
		return nil, err
	}
	annotations.setText(contentVersionAnnotation, e.contentVersion)
	meta["annotations"] = annotations.encode()
	pod["metadata"] = meta.encode()
	return pod, nil
}

// mergeNode returns the desired node, if there is one, with the local status and the local
// labels and annotations that the desired node does not have.
func mergeNode(e *entry, d desired, live bool) (document, error) {
	l := e.local
	if l == nil || l.op == streams.OpDelete {
		if !live {
			return nil, nil
		}
		return parseDocument(d.body)
	}
	own, err := parseDocument(l.body)
	if err != nil || !live {
		return own, err
	}
	node, err := parseDocument(d.body)
	if err != nil {
		return nil, err
	}
	meta, err := node.child("metadata")
	if err != nil {
		return nil, err
	}
	ownMeta, err := own.child("metadata")
	if err != nil {
		return nil, err
	}
	for _, field := range []string{"labels", "annotations"} {
		if err := mergeStrings(meta, ownMeta, field); err != nil {
			return nil, fmt.Errorf("metadata.%s: %w", field, err)
		}
	}
	node["metadata"] = meta.encode()
	if !isEmpty(own["status"]) {
		node["status"] = own["status"]
	}
	return node, nil
}
