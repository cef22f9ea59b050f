package writeback

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/petiole-io/petiole/bridge/bounds"
	"github.com/petiole-io/petiole/bridge/kube"
)

// eventWriter writes Events that kubelets report.
type eventWriter struct{ Config }

type jsonPatchOperation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

// checkObject returns an error if an Event is about a node, or about a pod or device of a node,
// that does not belong to the site. A pod that no longer exists may be its.
func (w *eventWriter) checkObject(r Report, o corev1.ObjectReference) error {
	node := o.Name
	switch o.Kind {
	case "Node":
	case "Pod", "Device":
		k := kube.CoreKey("pods", o.Namespace, o.Name)
		if o.Kind == "Device" {
			k = kube.Key{Group: kube.DeviceGroup, Resource: "devices", Namespace: o.Namespace, Name: o.Name}
		}
		bound := w.Cache.Get(k)
		if bound == nil {
			return nil
		}
		node = kube.StringAt(bound, "spec", "nodeName")
	default:
		return nil
	}
	if node != r.Ref.Node && w.Sites.SiteOf(node) != r.Site {
		return fmt.Errorf("%w: %s is about %s %s, which is not the site's", kube.ErrRefused, r.Ref, o.Kind, o.Name)
	}
	return nil
}

// write creates or updates an event while impersonating the node.
func (w *eventWriter) write(ctx context.Context, r Report) error {
	if r.Ref.Group != "" {
		return fmt.Errorf("%w: report events as core/v1 events, not %s", kube.ErrRefused, r.Ref)
	}
	var event corev1.Event
	if err := json.Unmarshal(r.Object, &event); err != nil {
		return fmt.Errorf("%w: %w", kube.ErrRefused, err)
	}
	if err := w.checkSize(r, "object", len(r.Object), bounds.MaxEventBytes); err != nil {
		return err
	}
	if err := w.checkObject(r, event.InvolvedObject); err != nil {
		return err
	}
	event.Namespace = r.Ref.Namespace
	event.Source.Host = r.Ref.Node
	clearServerFields(&event.ObjectMeta)
	as, err := w.Clients.As(r.Ref.Node)
	if err != nil {
		return err
	}
	events := as.Core.Events(r.Ref.Namespace)
	if _, err = events.Create(ctx, &event, metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		return kube.Classify(err)
	}
	patch, err := json.Marshal([]jsonPatchOperation{
		// An Event that others have written stays what it is.
		{"test", "/source/host", r.Ref.Node},
		{"add", "/count", event.Count},
		{"add", "/lastTimestamp", event.LastTimestamp},
		{"add", "/message", event.Message},
		{"add", "/reason", event.Reason},
		{"add", "/type", event.Type},
		{"add", "/series", event.Series},
	})
	if err != nil {
		return fmt.Errorf("encode %s: %w", r.Ref, err)
	}
	_, err = events.Patch(ctx, r.Ref.Name, types.JSONPatchType, patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		return err // it expired meanwhile: create it at the next try
	}
	return kube.Classify(err)
}
