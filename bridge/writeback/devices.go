package writeback

import (
	"context"
	"encoding/json"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/petiole-io/petiole/bridge/bounds"
	"github.com/petiole-io/petiole/bridge/kube"
)

// deviceWriter writes reports about devices.
type deviceWriter struct{ Config }

var deviceStatuses = schema.GroupVersionResource{Group: kube.DeviceGroup, Version: "v1beta1", Resource: "devicestatuses"}

// write writes the reported DeviceStatus, with the Device as its owner, and copies
// the state to the Device.
func (w *deviceWriter) write(ctx context.Context, r Report) error {
	if err := w.checkSize(r, "status", len(r.Object), bounds.MaxDeviceStatusBytes); err != nil {
		return err
	}
	var reported unstructured.Unstructured
	if err := json.Unmarshal(r.Object, &reported.Object); err != nil {
		return fmt.Errorf("%w: %w", kube.ErrRefused, err)
	}
	device := w.Cache.Get(kube.Key{Group: kube.DeviceGroup, Resource: "devices", Namespace: r.Ref.Namespace, Name: r.Ref.Name})
	switch {
	case device == nil:
		return fmt.Errorf("%w: device %s/%s", kube.ErrGone, r.Ref.Namespace, r.Ref.Name)
	case r.UID != "" && string(device.GetUID()) != r.UID:
		return fmt.Errorf("%w: device %s/%s has UID %s, reported is %s", kube.ErrGone, r.Ref.Namespace, r.Ref.Name, device.GetUID(), r.UID)
	case kube.StringAt(device, "spec", "nodeName") != r.Ref.Node:
		// Moved to another node, whose reports count.
		return fmt.Errorf("%w: device %s/%s is bound to node %q", kube.ErrGone, r.Ref.Namespace, r.Ref.Name, kube.StringAt(device, "spec", "nodeName"))
	}
	status := reported.Object["status"]
	if err := w.put(ctx, r, device, status); err != nil {
		return err
	}
	return w.mirrorStatus(ctx, r.Site, device, status)
}

func (w *deviceWriter) put(ctx context.Context, r Report, device *unstructured.Unstructured, status any) error {
	current := w.Cache.Get(kube.KeyOf(r.Ref))
	if current == nil {
		return w.create(ctx, r, device, status)
	}
	owner := ownerOf(device)
	from := map[string]any{"metadata": map[string]any{"ownerReferences": current.Object["metadata"].(map[string]any)["ownerReferences"]}, "status": current.Object["status"]}
	to := map[string]any{"metadata": map[string]any{"ownerReferences": []any{owner}}, "status": status}
	patch, differs, err := kube.MergePatchOf(from, to)
	if err != nil {
		return fmt.Errorf("compare %s: %w", r.Ref, err)
	}
	if !differs {
		return nil
	}
	if patch, err = kube.WithPreconditions(patch, current.GetUID(), current.GetResourceVersion()); err != nil {
		return fmt.Errorf("compare %s: %w", r.Ref, err)
	}
	_, err = w.Clients.Dynamic.Resource(deviceStatuses).Namespace(r.Ref.Namespace).Patch(ctx, r.Ref.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		return err // deleted meanwhile: create it at the next try
	}
	return kube.Classify(err)
}

func (w *deviceWriter) create(ctx context.Context, r Report, device *unstructured.Unstructured, status any) error {
	o := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": deviceStatuses.GroupVersion().String(), "kind": "DeviceStatus",
		"metadata": map[string]any{
			"name": r.Ref.Name, "namespace": r.Ref.Namespace, "ownerReferences": []any{ownerOf(device)},
		},
	}}
	if status != nil {
		o.Object["status"] = status
	}
	_, err := w.Clients.Dynamic.Resource(deviceStatuses).Namespace(r.Ref.Namespace).Create(ctx, o, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return err // the informer lags: patch it at the next try
	}
	return kube.Classify(err)
}

func ownerOf(device *unstructured.Unstructured) map[string]any {
	return map[string]any{
		"apiVersion": device.GetAPIVersion(), "kind": device.GetKind(), "name": device.GetName(),
		"uid": string(device.GetUID()), "controller": true,
	}
}
