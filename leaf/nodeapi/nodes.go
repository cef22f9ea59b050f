package nodeapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/petiole-io/petiole/leaf/nodeapi/catalog"
	"github.com/petiole-io/petiole/leaf/nodeapi/objects"
	"github.com/petiole-io/petiole/streams"
)

// planNode accepts a node's status and the labels and annotations that the kubelet writes. The
// spec can be changed only until the cloud knows the node.
//
// A kubelet reports its whole status every five minutes, with new times in its conditions. Such a
// report is accepted and not kept until the times are older than interval: it says nothing that
// the renewals of the lease do not say, and would cross the link.
func planNode(node string, interval time.Duration, q *request, s objects.State, next objects.Document) (plan, error) {
	gr := q.resource.GroupResource()
	if q.Name != node {
		return plan{}, apierrors.NewForbidden(gr, q.Name, fmt.Errorf("this node is %s", node))
	}
	current, err := objects.ParseDocument(s.Effective.JSON)
	if err != nil {
		return plan{}, err
	}
	if q.Sub == "" {
		if s.Live && !objects.SameJSON(current["spec"], next["spec"]) {
			return plan{}, catalog.CloudOnly(gr, q.Name)
		}
		next["status"] = current["status"]
	} else {
		next["spec"] = current["spec"]
	}
	own, changed, err := ownMetadata(s, current, next)
	if err != nil {
		return plan{}, apierrors.NewBadRequest(err.Error())
	}
	sameStatus := objects.SameJSON(current["status"], next["status"]) || onlyHeartbeats(current["status"], next["status"], interval)
	if !changed && sameStatus && objects.SameJSON(current["spec"], next["spec"]) {
		return plan{}, nil
	}
	l := &objects.Local{Op: streams.OpCreate, UID: s.Effective.UID}
	if s.Live {
		l.Op = streams.OpPut
	}
	body := objects.Document{"apiVersion": next["apiVersion"], "kind": next["kind"], "metadata": own.Encode()}
	for _, f := range []string{"spec", "status"} {
		if !objects.IsEmpty(next[f]) {
			body[f] = next[f]
		}
	}
	l.Body = body.Encode()
	return plan{local: l, report: l.Body}, nil
}

// onlyHeartbeats reports whether two statuses of a node differ in nothing but the times of the last
// heartbeat of its conditions, by less than interval.
func onlyHeartbeats(current, next json.RawMessage, interval time.Duration) bool {
	var was, is corev1.NodeStatus
	if json.Unmarshal(current, &was) != nil || json.Unmarshal(next, &is) != nil || len(was.Conditions) != len(is.Conditions) {
		return false
	}
	for i := range is.Conditions {
		age := is.Conditions[i].LastHeartbeatTime.Sub(was.Conditions[i].LastHeartbeatTime.Time)
		if age < 0 || age >= interval {
			return false
		}
		is.Conditions[i].LastHeartbeatTime = was.Conditions[i].LastHeartbeatTime
	}
	return apiequality.Semantic.DeepEqual(was, is)
}

// ownMetadata returns the metadata of the local report: the labels and annotations that the
// kubelet has written, including this update. Those set by the cloud are left out, so that
// the cloud can remove them.
func ownMetadata(s objects.State, current, next objects.Document) (own objects.Document, changed bool, err error) {
	var before objects.Document
	if s.Local != nil && s.Local.Op != streams.OpDelete {
		if before, err = objects.ParseDocument(s.Local.Body); err != nil {
			return nil, false, err
		}
		if before, err = before.Child("metadata"); err != nil {
			return nil, false, err
		}
	}
	was, err := current.Child("metadata")
	if err != nil {
		return nil, false, err
	}
	is, err := next.Child("metadata")
	if err != nil {
		return nil, false, err
	}
	own = objects.Document{"name": was["name"], "uid": was["uid"], "creationTimestamp": was["creationTimestamp"]}
	for _, field := range []string{"labels", "annotations"} {
		written, err := before.Child(field)
		if err != nil {
			return nil, false, err
		}
		diff, err := writtenBetween(written, was, is, field)
		if err != nil {
			return nil, false, err
		}
		changed = changed || diff
		if len(written) > 0 {
			own[field] = written.Encode()
		}
	}
	return own, changed, nil
}

// writtenBetween applies to written the changes of a map field between two versions of the
// metadata. It reports whether written has changed.
func writtenBetween(written, before, after objects.Document, field string) (changed bool, err error) {
	from, err := before.Child(field)
	if err != nil {
		return false, err
	}
	to, err := after.Child(field)
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
