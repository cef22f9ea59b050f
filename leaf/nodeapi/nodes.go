package nodeapi

import (
	"bytes"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/petiole-io/petiole/streams"
)

// planNode accepts a node's status and the labels and annotations that the kubelet writes. The
// spec can be changed only until the cloud knows the node.
func (a *API) planNode(q *request, s state, next document) (plan, error) {
	gr := q.resource.GroupResource()
	if q.name != a.cfg.Node {
		return plan{}, apierrors.NewForbidden(gr, q.name, fmt.Errorf("this node is %s", a.cfg.Node))
	}
	current, err := parseDocument(s.effective.json)
	if err != nil {
		return plan{}, err
	}
	if q.sub == "" {
		if s.live && !sameJSON(current["spec"], next["spec"]) {
			return plan{}, forbidden(gr, q.name)
		}
		next["status"] = current["status"]
	} else {
		next["spec"] = current["spec"]
	}
	own, changed, err := ownMetadata(s, current, next)
	if err != nil {
		return plan{}, apierrors.NewBadRequest(err.Error())
	}
	if !changed && sameJSON(current["status"], next["status"]) && sameJSON(current["spec"], next["spec"]) {
		return plan{}, nil
	}
	l := &local{op: streams.OpCreate, uid: s.effective.uid}
	if s.live {
		l.op = streams.OpPut
	}
	body := document{"apiVersion": next["apiVersion"], "kind": next["kind"], "metadata": own.encode()}
	for _, f := range []string{"spec", "status"} {
		if !isEmpty(next[f]) {
			body[f] = next[f]
		}
	}
	l.body = body.encode()
	return plan{local: l, report: l.body}, nil
}

// ownMetadata returns the metadata of the local report: the labels and annotations that the
// kubelet has written, including this update. Those set by the cloud are left out, so that
// the cloud can remove them.
func ownMetadata(s state, current, next document) (own document, changed bool, err error) {
	var before document
	if s.local != nil && s.local.op != streams.OpDelete {
		if before, err = parseDocument(s.local.body); err != nil {
			return nil, false, err
		}
		if before, err = before.child("metadata"); err != nil {
			return nil, false, err
		}
	}
	was, err := current.child("metadata")
	if err != nil {
		return nil, false, err
	}
	is, err := next.child("metadata")
	if err != nil {
		return nil, false, err
	}
	own = document{"name": was["name"], "uid": was["uid"], "creationTimestamp": was["creationTimestamp"]}
	for _, field := range []string{"labels", "annotations"} {
		written, err := before.child(field)
		if err != nil {
			return nil, false, err
		}
		diff, err := writtenBetween(written, was, is, field)
		if err != nil {
			return nil, false, err
		}
		changed = changed || diff
		if len(written) > 0 {
			own[field] = written.encode()
		}
	}
	return own, changed, nil
}

// writtenBetween applies to written the changes of a map field between two versions of the
// metadata. It reports whether written has changed.
func writtenBetween(written, before, after document, field string) (changed bool, err error) {
	from, err := before.child(field)
	if err != nil {
		return false, err
	}
	to, err := after.child(field)
	if err != nil {
		return false, err
	}
	for k, v := range to {
		if !bytes.Equal(from[k], v) {
			written[k], changed = v, true
		}
	}
	for k := range from {
		if _, ok := to[k]; !ok {
			_, had := written[k]
			delete(written, k)
			changed = changed || had
		}
	}
	return changed, nil
}
