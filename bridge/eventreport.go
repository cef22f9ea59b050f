package bridge

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/petiole-io/petiole/bridge/kube"
)

// writeEvent creates or updates an event while impersonating the node.
func (w *writeback) writeEvent(ctx context.Context, k reportKey, r *report) error {
	if k.ref.Group != "" {
		return fmt.Errorf("%w: report events as core/v1 events, not %s", kube.ErrRefused, k.ref)
	}
	var event corev1.Event
	if err := json.Unmarshal(r.msg.Object, &event); err != nil {
		return fmt.Errorf("%w: %w", kube.ErrRefused, err)
	}
	event.Namespace = k.ref.Namespace
	clearServerFields(&event.ObjectMeta)
	as, err := w.clients.As(k.ref.Node)
	if err != nil {
		return err
	}
	events := as.Core.Events(k.ref.Namespace)
	if _, err = events.Create(ctx, &event, metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		return kube.Classify(err)
	}
	patch, err := json.Marshal(map[string]any{
		"count": event.Count, "lastTimestamp": event.LastTimestamp, "message": event.Message,
		"reason": event.Reason, "type": event.Type, "series": event.Series,
	})
	if err != nil {
		return fmt.Errorf("encode %s: %w", k.ref, err)
	}
	_, err = events.Patch(ctx, k.ref.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		return err // it expired meanwhile: create it at the next try
	}
	return kube.Classify(err)
}
