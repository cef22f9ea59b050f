package nodeapi

import (
	"fmt"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/petiole-io/petiole/streams"
)

// contentVersion is the annotation whose change makes the kubelet sync a pod at
// once. It is part of the view only: never stored, never reported.
const contentVersion = "petiole.dev/content-version"

// local is the last message of one local.reported subject.
type local struct {
	op  streams.Op
	uid string
	// node is the node token of its subject.
	node string
	// body is the whole object, or for a pod that the cloud knows its status only.
	body []byte
	// version is the desired version that a delete ends, empty when the cloud never
	// knew the object.
	version string
	// seq is its place in SITE_REPORTED, 0 when it is kept in memory only.
	seq uint64
	// answers is, of a delete, the desired message that the cloud gets it for, by
	// desired.arrived; 0 when that was before the start.
	answers uint64
}

// unanswered says whether the cloud wants a pod that has come to its end here, and has
// not been told since it said so. An etcd that was put back to an earlier state has such
// pods again, and the report of their end is used up.
func (e *entry) unanswered() (desired, bool) {
	d, live := e.wanted()
	l := e.local
	return d, live && l != nil && l.op == streams.OpDelete && l.uid == d.uid && l.answers != d.arrived
}

// obsolete says whether the local message about a pod has done its work, so that it
// may go once the hub has it.
func (e *entry) obsolete() bool {
	l := e.local
	if l == nil || l.seq == 0 {
		return false
	}
	d, live := e.wanted()
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

// entry is all that is known about one name.
type entry struct {
	// desired is by the node token of the subject.
	desired map[string]desired
	local   *local
	// touched is the value of contentVersion, empty before the first nudge.
	touched string
	// born is the resource version at which the view appeared.
	born uint64
	view *object
}

// wanted is the live desired message, and whether there is one.
func (e *entry) wanted() (desired, bool) {
	var best desired
	found := false
	for _, d := range e.desired {
		if !d.gone && (!found || d.newer(best)) {
			best, found = d, true
		}
	}
	return best, found
}

// tombstoned says whether the cloud has taken the object away.
func (e *entry) tombstoned() bool {
	_, live := e.wanted()
	return !live && len(e.desired) > 0
}

// uid is that of the view, empty when there is none.
func (e *entry) uid() string {
	if e.view == nil {
		return ""
	}
	return e.view.uid
}

func (e *entry) idle() bool { return e.local == nil && len(e.desired) == 0 && e.view == nil }

// keepsOwnBody says which resources are served as something else than their desired
// body, which must be kept then.
func keepsOwnBody(gr schema.GroupResource) bool { return gr == podsGR || gr == nodesGR }

// compose makes the object that clients see: nil when there is none.
func compose(gr schema.GroupResource, e *entry) (document, error) {
	d, live := e.wanted()
	switch gr {
	case podsGR:
		return composePod(e, d, live)
	case nodesGR:
		return composeNode(e, d, live)
	}
	switch {
	case e.local != nil && e.local.op != streams.OpDelete:
		return parseDocument(e.local.body)
	case live:
		return parseDocument(d.body)
	}
	return nil, nil
}

// composePod takes metadata and spec from the cloud and the status from here when
// it was reported for the same pod.
func composePod(e *entry, d desired, live bool) (document, error) {
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
	if e.touched == "" || e.view == nil || e.view.uid != d.uid {
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
	annotations.setText(contentVersion, e.touched)
	meta["annotations"] = annotations.encode()
	pod["metadata"] = meta.encode()
	return pod, nil
}

// composeNode takes the node from the cloud once it is known there, and from here its
// status and the labels and annotations that the cloud does not have yet.
func composeNode(e *entry, d desired, live bool) (document, error) {
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
	if !empty(own["status"]) {
		node["status"] = own["status"]
	}
	return node, nil
}
