package nodeapi

import (
	"context"
	"fmt"

	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/streams"
)

// mirrorAnnotation marks the pod that a kubelet creates in the API for a static pod.
const mirrorAnnotation = "kubernetes.io/config.mirror"

// planPodStatus accepts the status of a pod of this node, and no other change of it.
func (a *API) planPodStatus(q *request, s state, next document) (plan, error) {
	gr := q.resource.GroupResource()
	if q.sub != "status" {
		return plan{}, forbidden(gr, q.name)
	}
	if node := s.effective.Get("spec.nodeName"); node != a.cfg.Node {
		return plan{}, apierrors.NewForbidden(gr, q.name, fmt.Errorf("the pod runs on %q, this node is %s", node, a.cfg.Node))
	}
	current, err := parseDocument(s.effective.json)
	if err != nil || sameJSON(current["status"], next["status"]) {
		return plan{}, err
	}
	// Not the effective object: the content version must not be reported.
	base := s.desired.body
	if !s.live {
		base = s.local.body
	}
	pod, err := parseDocument(base)
	if err != nil {
		return plan{}, err
	}
	pod["status"] = next["status"]
	meta, err := pod.child("metadata")
	if err != nil {
		return plan{}, err
	}
	removeServerFields(meta)
	pod["metadata"] = meta.encode()
	report := pod.encode()
	if s.live {
		return plan{local: &local{op: streams.OpPut, uid: s.desired.uid, body: next["status"]}, report: report}, nil
	}
	return plan{local: &local{op: streams.OpCreate, uid: s.local.uid, body: report}, report: report}, nil
}

// authorizePodDelete returns an error unless the kubelet deletes a pod that has ended after a
// deletion in the cloud, or a mirror pod. All other pods are deleted in the cloud.
func (a *API) authorizePodDelete(pod *object, live bool, opts metav1.DeleteOptions) error {
	if node := pod.Get("spec.nodeName"); node != a.cfg.Node {
		return apierrors.NewForbidden(podsGR, pod.name, fmt.Errorf("the pod runs on %q, this node is %s", node, a.cfg.Node))
	}
	deleting := peek(pod.json, "metadata", "deletionTimestamp") != ""
	mirror := peek(pod.json, "metadata", "annotations", mirrorAnnotation) != ""
	if opts.GracePeriodSeconds != nil && *opts.GracePeriodSeconds == 0 && (deleting || mirror || !live) {
		return nil
	}
	return forbidden(podsGR, pod.name)
}

// reportEndAgain reports the end of a pod again if the cloud wants the pod and its end has not
// been reported since.
func (a *API) reportEndAgain(ctx context.Context, k key) error {
	defer a.lock(podsGR, k)()
	d, due := a.store.endUnreported(podsGR, k)
	if !due {
		return nil
	}
	l := &local{op: streams.OpDelete, uid: d.uid, version: d.version, inReplyTo: d.arrival}
	if _, err := a.storeLocal(ctx, a.store.resource(podsGR), k, l, nil); err != nil {
		return fmt.Errorf("report the end of pod %s again: %w", k, err)
	}
	a.log.Info("the cloud wants a pod that has ended here: its end is reported again", zap.Stringer("pod", k), zap.String("uid", d.uid))
	return nil
}
