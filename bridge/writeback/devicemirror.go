package writeback

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/petiole-io/petiole/bridge/kube"
	devicesv1beta1 "github.com/petiole-io/petiole/devices/api/v1beta1"
)

// mirrorInterval is the minimum advance of a device's last online time that is written if
// nothing else changed.
const mirrorInterval = time.Minute

var deviceResource = schema.GroupVersionResource{Group: kube.DeviceGroup, Version: "v1beta1", Resource: "devices"}

// mirrorStatus copies what `kubectl get devices` shows, the state and the last online time,
// from the DeviceStatus to Device.status, where KubeEdge had them up to 1.22. While the site
// is disconnected the state is unknown. A device that was replaced meanwhile is left alone,
// because its own report follows.
func (w *deviceWriter) mirrorStatus(ctx context.Context, site string, device *unstructured.Unstructured, status any) error {
	connected, _, _ := w.Liveness.State(site)
	return w.mirror(ctx, device, status, connected)
}

// mirror copies state and last online time of a status to the Device. Connected reports
// whether the site that operates the device is connected.
func (w *deviceWriter) mirror(ctx context.Context, device *unstructured.Unstructured, status any, connected bool) error {
	reported, _ := status.(map[string]any)
	current, _ := device.Object["status"].(map[string]any)
	next := mirroredStatus(current, reported, connected)
	if next == nil {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": device.GetUID()}, "status": next})
	if err != nil {
		return fmt.Errorf("encode status of device %s/%s: %w", device.GetNamespace(), device.GetName(), err)
	}
	_, err = w.Clients.Dynamic.Resource(deviceResource).Namespace(device.GetNamespace()).
		Patch(ctx, device.GetName(), types.MergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return kube.Classify(err)
}

// onlineNow is the last online time, as kubectl shows it, of a device that responds: the site
// would have reported that it no longer does, and is connected. A time would be as old as the
// last status.
const onlineNow = "now"

// stateDegraded is the state of a device that responds, but not all of its properties can be
// read. KubeEdge has no such state.
const stateDegraded = "degraded"

// mirroredStatus returns the new Device.status, nil if nothing has to change. It is a pure
// function.
func mirroredStatus(current, reported map[string]any, connected bool) map[string]any {
	state, _ := reported["state"].(string)
	online, _ := reported["lastOnlineTime"].(string)
	if !connected {
		state = devicesv1beta1.StateUnknown
	}
	was, _ := current["state"].(string)
	seen, _ := current["lastOnlineTime"].(string)
	shown, last := current["lastOnline"], online
	if state == devicesv1beta1.StateOnline || state == stateDegraded {
		last = onlineNow
	}
	unshown := last != "" && shown == nil // by an earlier version
	if state == was && !unshown && !laterBy(mirrorInterval, online, seen) {
		return nil
	}
	next := map[string]any{"state": state}
	if online != "" {
		next["lastOnlineTime"] = online
	}
	if last != "" {
		next["lastOnline"] = last
	}
	return next
}

// laterBy reports whether a time in RFC 3339 is at least d after another, or the only one that
// can be parsed.
func laterBy(d time.Duration, at, than string) bool {
	a, err := time.Parse(time.RFC3339, at)
	if err != nil {
		return false
	}
	b, err := time.Parse(time.RFC3339, than)
	return err != nil || a.Sub(b) >= d
}
