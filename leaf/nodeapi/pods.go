package nodeapi

import (
	"context"
	"fmt"

	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/streams"
)

// mirrorAnnotation marks the pod that a kubelet makes in the API for a static pod.
const mirrorAnnotation = "kubernetes.io/config.mirror"

// planPodStatus takes the status of a pod of this node, and nothing else of it.
func (a *API) planPodStatus(q *request, s state, next document) (plan, error) {
	gr := q.resource.GroupResource()
	if q.sub != "status" {
		return plan{}, forbidden(gr, q.name)
	}
	if node := s.view.Get("spec.nodeName"); node != a.cfg.Node {
		return plan{}, apierrors.NewForbidden(gr, q.name, fmt.Errorf("the pod runs on %q, this node is %s", node, a.cfg.Node))
	}
	current, err := parseDocument(s.view.json)
	if err != nil || sameJSON(current["status"], next["status"]) {
		return plan{}, err
	}
	// Not the view: what this package adds to it must not go up.
	base := s.want.body
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
	clean(meta)
	pod["metadata"] = meta.encode()
	up := pod.encode()
	if s.live {
		return plan{local: &local{op: streams.OpPut, uid: s.want.uid, body: next["status"]}, up: up}, nil
	}
	return plan{local: &local{op: streams.OpCreate, uid: s.local.uid, body: up}, up: up}, nil
}

// mayDeletePod accepts the kubelet's last word about a pod that is being deleted, and
// the removal of mirror pods. Everything else is decided in the cloud.
func (a *API) mayDeletePod(view *object, live bool, opts metav1.DeleteOptions) error {
	if node := view.Get("spec.nodeName"); node != a.cfg.Node {
		return apierrors.NewForbidden(podsGR, view.name, fmt.Errorf("the pod runs on %q, this node is %s", node, a.cfg.Node))
	}
	deleting := peek(view.json, "metadata", "deletionTimestamp") != ""
	mirror := peek(view.json, "metadata", "annotations", mirrorAnnotation) != ""
	if opts.GracePeriodSeconds != nil && *opts.GracePeriodSeconds == 0 && (deleting || mirror || !live) {
		return nil
	}
	return forbidden(podsGR, view.name)
}

// reportEndAgain stores the final deletion of a pod anew if the cloud wants the pod and
// has not been told since.
func (a *API) reportEndAgain(ctx context.Context, k key) error {
	defer a.locks.lock(podsGR, k)()
	d, due := a.store.unanswered(podsGR, k)
	if !due {
		return nil
	}
	l := &local{op: streams.OpDelete, uid: d.uid, version: d.version, answers: d.arrived}
	if _, err := a.keep(ctx, a.store.resource(podsGR), k, l, nil); err != nil {
		return fmt.Errorf("report the end of pod %s again: %w", k, err)
	}
	a.log.Info("pod is wanted that has ended here; its end is reported again", zap.Stringer("pod", k), zap.String("uid", d.uid))
	return nil
}
