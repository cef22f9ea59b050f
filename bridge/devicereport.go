package bridge

import (
	"context"
	"encoding/json"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/petiole-io/petiole/bridge/kube"
)

var deviceStatuses = schema.GroupVersionResource{Group: kube.DeviceGroup, Version: "v1beta1", Resource: "devicestatuses"}

// writeDeviceStatus writes the reported DeviceStatus, with the Device as its owner, and copies
// the state to the Device.
func (w *writeback) writeDeviceStatus(ctx context.Context, k reportKey, r *report) error {
	var reported unstructured.Unstructured
	if err := json.Unmarshal(r.msg.Object, &reported.Object); err != nil {
		return fmt.Errorf("%w: %w", kube.ErrRefused, err)
	}
	device := w.cache.Get(kube.Key{Group: kube.DeviceGroup, Resource: "devices", Namespace: k.ref.Namespace, Name: k.ref.Name})
	switch {
	case device == nil:
		return fmt.Errorf("%w: device %s/%s", kube.ErrGone, k.ref.Namespace, k.ref.Name)
	case r.msg.UID != "" && string(device.GetUID()) != r.msg.UID:
		return fmt.Errorf("%w: device %s/%s has UID %s, reported is %s", kube.ErrGone, k.ref.Namespace, k.ref.Name, device.GetUID(), r.msg.UID)
	case kube.StringAt(device, "spec", "nodeName") != k.ref.Node:
		// Moved to another node, whose reports count.
		return fmt.Errorf("%w: device %s/%s is bound to node %q", kube.ErrGone, k.ref.Namespace, k.ref.Name, kube.StringAt(device, "spec", "nodeName"))
	}
	status := reported.Object["status"]
	if err := w.putDeviceStatus(ctx, k, device, status); err != nil {
		return err
	}
	return w.mirrorStatus(ctx, k.site, device, status)
}

func (w *writeback) putDeviceStatus(ctx context.Context, k reportKey, device *unstructured.Unstructured, status any) error {
	current := w.cache.Get(kube.KeyOf(k.ref))
	if current == nil {
		return w.createDeviceStatus(ctx, k, device, status)
	}
	owner := ownerOf(device)
	from := map[string]any{"metadata": map[string]any{"ownerReferences": current.Object["metadata"].(map[string]any)["ownerReferences"]}, "status": current.Object["status"]}
	to := map[string]any{"metadata": map[string]any{"ownerReferences": []any{owner}}, "status": status}
	patch, differs, err := kube.MergePatchOf(from, to)
	if err != nil {
		return fmt.Errorf("compare %s: %w", k.ref, err)
	}
	if !differs {
		return nil
	}
	if patch, err = kube.WithPreconditions(patch, current.GetUID(), current.GetResourceVersion()); err != nil {
		return fmt.Errorf("compare %s: %w", k.ref, err)
	}
	_, err = w.clients.Dynamic.Resource(deviceStatuses).Namespace(k.ref.Namespace).Patch(ctx, k.ref.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		return err // deleted meanwhile: create it at the next try
	}
	return kube.Classify(err)
}

func (w *writeback) createDeviceStatus(ctx context.Context, k reportKey, device *unstructured.Unstructured, status any) error {
	o := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": deviceStatuses.GroupVersion().String(), "kind": "DeviceStatus",
		"metadata": map[string]any{
			"name": k.ref.Name, "namespace": k.ref.Namespace, "ownerReferences": []any{ownerOf(device)},
		},
	}}
	if status != nil {
		o.Object["status"] = status
	}
	_, err := w.clients.Dynamic.Resource(deviceStatuses).Namespace(k.ref.Namespace).Create(ctx, o, metav1.CreateOptions{})
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
