package writeback

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

// eventWriter writes Events that kubelets report.
type eventWriter struct{ Config }

// write creates or updates an event while impersonating the node.
func (w *eventWriter) write(ctx context.Context, r Report) error {
	if r.Ref.Group != "" {
		return fmt.Errorf("%w: report events as core/v1 events, not %s", kube.ErrRefused, r.Ref)
	}
	var event corev1.Event
	if err := json.Unmarshal(r.Object, &event); err != nil {
		return fmt.Errorf("%w: %w", kube.ErrRefused, err)
	}
	event.Namespace = r.Ref.Namespace
	clearServerFields(&event.ObjectMeta)
	as, err := w.Clients.As(r.Ref.Node)
	if err != nil {
		return err
	}
	events := as.Core.Events(r.Ref.Namespace)
	if _, err = events.Create(ctx, &event, metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		return kube.Classify(err)
	}
	patch, err := json.Marshal(map[string]any{
		"count": event.Count, "lastTimestamp": event.LastTimestamp, "message": event.Message,
		"reason": event.Reason, "type": event.Type, "series": event.Series,
	})
	if err != nil {
		return fmt.Errorf("encode %s: %w", r.Ref, err)
	}
	_, err = events.Patch(ctx, r.Ref.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		return err // it expired meanwhile: create it at the next try
	}
	return kube.Classify(err)
}
