package bridgetest

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/streams"
)

// TestReported: what sites report and ask for reaches the API server with their own rights.
func TestReported(t *testing.T) {
	runAll(t, []sharing{
		{"WritesPodStatusOfTheRightUID", writesPodStatus},
		{"RepairsOnlyForNodesThatAreHeard", repairsForTheHeard},
		{"CarriesOutFinalDeletions", deletesPods},
		{"WritesEventsCSINodesAndMirrorPods", writesTheRest},
		{"ForgesNoEvents", forgesNoEvents},
		{"WritesDeviceStatus", writesDeviceStatus},
		{"DeviceOfNoSite", deviceOfNoSite},
		{"ModelsAreValid", modelsAreValid},
		{"HandsOutTokens", handsOutTokens},
		{"CreatesPodCertificateRequests", createsPodCertificateRequests},
		{"SetsPoisonAside", setsPoisonAside},
		{"KeepsSitesApart", keepsSitesApart},
	})
}

// modelsAreValid applies the ready-made models as a dry run, with unknown fields as errors.
func modelsAreValid(t *testing.T, a *api) {
	files, err := filepath.Glob("../../deploy/kubernetes/models/*.yaml")
	if err != nil || len(files) < 12 {
		t.Fatalf("%d models: %v", len(files), err)
	}
	for _, f := range files {
		a.applyFileWith(t, f, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict})
	}
}

func writesPodStatus(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a")
	b := w.start("one")
	s := w.site("plant-a")
	s.register("a1")
	w.configMap("settings", "1")
	pod := w.pod("web", "a1", "settings")
	w.settled("plant-a", "web", "a1")
	ref := w.podRef("web", "a1")

	s.report(streams.OpPut, ref, string(pod.UID), reported(pod, corev1.PodRunning, corev1.ConditionTrue))
	eventually(t, "status of the pod", func() bool {
		p := w.getPod("web")
		return p.Status.Phase == corev1.PodRunning && p.Status.PodIP == "10.88.0.2" && podCondition(p, corev1.PodReady) == corev1.ConditionTrue
	})

	// A leaf of the version before this one reports the whole pod.
	whole := pod.DeepCopy()
	whole.Status = reported(pod, corev1.PodRunning, corev1.ConditionFalse).Status
	s.report(streams.OpPut, ref, string(pod.UID), whole)
	eventually(t, "status of the whole pod", func() bool { return podCondition(w.getPod("web"), corev1.PodReady) == corev1.ConditionFalse })

	// The status of a former pod of that name.
	dropped := b.Counters().Dropped
	former := reported(pod, corev1.PodFailed, corev1.ConditionFalse)
	former.UID = "00000000-0000-0000-0000-000000000001"
	s.report(streams.OpPut, ref, string(former.UID), former)
	eventually(t, "report of another UID dropped", func() bool { return b.Counters().Dropped == dropped+1 })
	if p := w.getPod("web"); p.Status.Phase != corev1.PodRunning {
		t.Errorf("phase is %s by the report of another UID", p.Status.Phase)
	}

	// A terminal phase is not left.
	s.report(streams.OpPut, ref, string(pod.UID), reported(pod, corev1.PodSucceeded, corev1.ConditionFalse))
	eventually(t, "pod succeeded", func() bool { return w.getPod("web").Status.Phase == corev1.PodSucceeded })
	accepted := b.Counters().Accepted
	s.report(streams.OpPut, ref, string(pod.UID), reported(pod, corev1.PodRunning, corev1.ConditionTrue))
	eventually(t, "late report handled", func() bool { return b.Counters().Accepted > accepted })
	if p := w.getPod("web"); p.Status.Phase != corev1.PodSucceeded {
		t.Errorf("phase went back to %s", p.Status.Phase)
	}
	if b.Counters().Quarantined != 0 {
		t.Errorf("quarantined: %q", w.quarantined(""))
	}
}

func repairsForTheHeard(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a")
	b := w.start("one")
	s := w.site("plant-a")
	s.register("a1")
	w.configMap("settings", "1")
	pod := w.pod("web", "a1", "settings")
	w.settled("plant-a", "web", "a1")
	s.report(streams.OpPut, w.podRef("web", "a1"), string(pod.UID), reported(pod, corev1.PodRunning, corev1.ConditionTrue))
	ready := func() bool { return podCondition(w.getPod("web"), corev1.PodReady) == corev1.ConditionTrue }
	eventually(t, "pod ready", ready)

	// What the controller manager does to a node that it does not hear.
	unhear := func() {
		patch := []byte(`{"status":{"conditions":[{"type":"Ready","status":"False"}]}}`)
		_, err := a.admin.CoreV1().Pods(w.namespace).Patch(w.ctx, "web", types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
		w.must(err)
		patch = []byte(`{"status":{"conditions":[{"type":"Ready","status":"Unknown","reason":"NodeStatusUnknown"}]}}`)
		_, err = a.admin.CoreV1().Nodes().Patch(w.ctx, "a1", types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
		w.must(err)
	}
	node := func(c corev1.NodeConditionType) corev1.ConditionStatus {
		n, err := a.admin.CoreV1().Nodes().Get(w.ctx, "a1", metav1.GetOptions{})
		w.must(err)
		return nodeCondition(n, c)
	}
	s.beat(0, "a1")
	unhear()
	eventually(t, "repair while the node is heard", func() bool { return ready() && node(corev1.NodeReady) == corev1.ConditionTrue })

	// A bridge that has not heard the node leaves it.
	b.stop()
	unhear()
	w.start("two")
	w.setConfigMap("settings", "2")
	w.awaitDesired("plant-a", w.configMapRef("settings"), "published by the second bridge", contains(`"v":"2"`))
	// The node is stale by its own clock: its site is there, its kubelet is not.
	s.applied = 43
	s.beat(time.Minute, "a1")
	eventually(t, "heartbeat of the site taken in", func() bool { return w.siteStatus("plant-a").Applied == 43 })
	eventually(t, "the node is not ready: its site is heard, its kubelet is not", func() bool { return node(corev1.NodeReady) == corev1.ConditionFalse })
	if ready() {
		t.Error("status of a pod of a silent node was overwritten")
	}
	s.beat(0, "a1")
	eventually(t, "repair when the node is heard again", func() bool {
		return ready() && node(corev1.NodeReady) == corev1.ConditionTrue && node(v1alpha1.SiteConnectedCondition) == corev1.ConditionTrue
	})
}

func deletesPods(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a")
	b := w.start("one")
	s := w.site("plant-a")
	s.register("a1")
	w.configMap("settings", "1")
	pod := w.pod("web", "a1", "settings")
	w.settled("plant-a", "web", "a1")
	ref := w.podRef("web", "a1")

	w.must(a.admin.CoreV1().Pods(w.namespace).Delete(w.ctx, "web", metav1.DeleteOptions{}))
	w.awaitDesired("plant-a", ref, "is being deleted", contains("deletionTimestamp"))
	s.report(streams.OpDelete, ref, "00000000-0000-0000-0000-000000000001", nil)
	eventually(t, "deletion of another UID dropped", func() bool { return b.Counters().Dropped == 1 })
	w.getPod("web")

	s.report(streams.OpDelete, ref, string(pod.UID), nil)
	eventually(t, "pod gone", func() bool {
		_, err := a.admin.CoreV1().Pods(w.namespace).Get(w.ctx, "web", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	w.awaitDesired("plant-a", ref, "deleted", tombstoneOf(pod.UID))

	// A pod that nobody deletes, but whose containers have ended for good, as after a
	// restore of etcd.
	again := w.pod("web", "a1", "settings")
	w.settled("plant-a", "web", "a1")
	s.report(streams.OpDelete, ref, string(pod.UID), nil)
	eventually(t, "deletion of the former pod dropped", func() bool { return b.Counters().Dropped == 2 })
	if p := w.getPod("web"); p.UID != again.UID || p.DeletionTimestamp != nil {
		t.Errorf("the former pod's end ended %s", p.UID)
	}
	s.report(streams.OpDelete, ref, string(again.UID), nil)
	eventually(t, "pod gone", func() bool {
		_, err := a.admin.CoreV1().Pods(w.namespace).Get(w.ctx, "web", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	w.awaitDesired("plant-a", ref, "deleted", tombstoneOf(again.UID))
	if n := b.Counters().Quarantined; n != 0 {
		t.Errorf("%d reports are in quarantine", n)
	}
}

func writesTheRest(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a")
	w.start("one")
	s := w.site("plant-a")
	node := s.register("a1")

	event := corev1.Event{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Event"}, ObjectMeta: metav1.ObjectMeta{Name: "web.1", Namespace: w.namespace, UID: "local", ResourceVersion: "9"},
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: w.namespace, Name: "web"}, Reason: "Started", Message: "started", Count: 1, Type: "Normal",
		Source: corev1.EventSource{Component: "kubelet", Host: "a1"},
	}
	ref := streams.Ref{Node: "a1", Resource: "events", Namespace: w.namespace, Name: "web.1"}
	s.report(streams.OpCreate, ref, "", event)
	count := func(n int32) func() bool {
		return func() bool {
			e, err := a.admin.CoreV1().Events(w.namespace).Get(w.ctx, "web.1", metav1.GetOptions{})
			return err == nil && e.Count == n
		}
	}
	eventually(t, "event", count(1))
	event.Count = 3
	s.report(streams.OpPut, ref, "", event)
	eventually(t, "event counted", count(3))

	csi := storagev1.CSINode{TypeMeta: metav1.TypeMeta{APIVersion: "storage.k8s.io/v1", Kind: "CSINode"}, ObjectMeta: metav1.ObjectMeta{Name: "a1"}}
	csiRef := streams.Ref{Node: "a1", Group: "storage.k8s.io", Resource: "csinodes", Name: "a1"}
	s.report(streams.OpCreate, csiRef, "", csi)
	csi.Spec.Drivers = []storagev1.CSINodeDriver{{Name: "nfs", NodeID: "a1"}}
	eventually(t, "CSINode", func() bool {
		n, err := a.admin.StorageV1().CSINodes().Get(w.ctx, "a1", metav1.GetOptions{})
		return err == nil && len(n.OwnerReferences) == 1 && n.OwnerReferences[0].UID == node.UID
	})
	s.report(streams.OpPut, csiRef, "", csi)
	eventually(t, "driver in the CSINode", func() bool {
		n, err := a.admin.StorageV1().CSINodes().Get(w.ctx, "a1", metav1.GetOptions{})
		return err == nil && len(n.Spec.Drivers) == 1
	})

	yes := true
	s.report(streams.OpCreate, w.podRef("static-a1", "a1"), "", corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Name: "static-a1", Namespace: w.namespace, Annotations: map[string]string{corev1.MirrorPodAnnotationKey: "hash", "kubernetes.io/config.hash": "hash", "prometheus.io/scrape": "true"},
			Labels: map[string]string{"app": "web"}, Finalizers: []string{"example.com/stays"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "a1", UID: "another-life", Controller: &yes}},
		},
		Spec: corev1.PodSpec{NodeName: "a1", Containers: []corev1.Container{{Name: "c", Image: "busybox"}}},
	})
	eventually(t, "mirror pod", func() bool {
		p, err := a.admin.CoreV1().Pods(w.namespace).Get(w.ctx, "static-a1", metav1.GetOptions{})
		// Nothing that a Service, a NetworkPolicy or a collector of metrics selects it by.
		if err == nil && (len(p.Labels) > 0 || len(p.Finalizers) > 0 || len(p.Annotations) != 2 || p.Annotations["kubernetes.io/config.hash"] == "") {
			t.Fatalf("the mirror pod has labels %v, annotations %v, finalizers %v", p.Labels, p.Annotations, p.Finalizers)
		}
		return err == nil
	})
	s.report(streams.OpCreate, w.podRef("rogue", "a1"), "", corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: metav1.ObjectMeta{Name: "rogue", Namespace: w.namespace},
		Spec: corev1.PodSpec{NodeName: "a1", Containers: []corev1.Container{{Name: "c", Image: "busybox"}}},
	})
	reported := time.Now()

	// Accepted events do not pile up at the hub; only the site's last message stays.
	reportedStream, err := w.js.Stream(w.ctx, streams.Reported("plant-a"))
	w.must(err)
	eventually(t, "events trimmed", func() bool {
		_, err := reportedStream.GetLastMsgForSubject(w.ctx, streams.ReportedSubject("plant-a", ref))
		return err != nil
	})
	if n := len(w.quarantined("")); n != 0 {
		t.Errorf("what the API server forbids was refused after %v", time.Since(reported))
	}
	for len(w.quarantined("rogue")) == 0 {
		if time.Since(reported) > time.Minute+patience {
			t.Fatal("a site's own pod is not refused")
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// forgesNoEvents has a site report Events in the name of another's node: what others have written
// stays, and what is written names the site's own node.
func forgesNoEvents(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a", "plant-b")
	w.start("one")
	s := w.site("plant-b")
	s.register("b1")
	event := func(name, message string) *corev1.Event {
		return &corev1.Event{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Event"}, ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: w.namespace},
			InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: w.namespace, Name: "web"}, Reason: "Started", Message: message, Count: 1, Type: "Normal",
			Source: corev1.EventSource{Component: "kubelet", Host: "a1"},
		}
	}
	get := func(name string) *corev1.Event {
		e, err := a.admin.CoreV1().Events(w.namespace).Get(w.ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return &corev1.Event{}
		}
		w.must(err)
		return e
	}
	_, err := a.admin.CoreV1().Events(w.namespace).Create(w.ctx, event("theirs", "original"), metav1.CreateOptions{})
	w.must(err)
	report := func(name, message string) {
		s.report(streams.OpPut, streams.Ref{Node: "b1", Resource: "events", Namespace: w.namespace, Name: name}, "", event(name, message))
	}
	report("theirs", "forged")
	report("own", "first")
	eventually(t, "the forged Event refused", func() bool { return len(w.quarantined("theirs")) == 1 })
	if m := get("theirs").Message; m != "original" {
		t.Errorf("the other node's Event says %q", m)
	}
	eventually(t, "the own Event written in the name of its node", func() bool { return get("own").Source.Host == "b1" })
	report("own", "second")
	eventually(t, "the own Event updated", func() bool { return get("own").Message == "second" })
}

var (
	devicesGVR  = schema.GroupVersionResource{Group: "devices.kubeedge.io", Version: "v1beta1", Resource: "devices"}
	modelsGVR   = schema.GroupVersionResource{Group: "devices.kubeedge.io", Version: "v1beta1", Resource: "devicemodels"}
	statusesGVR = schema.GroupVersionResource{Group: "devices.kubeedge.io", Version: "v1beta1", Resource: "devicestatuses"}
)

// deviceOfNoSite: a device that is moved to a node that no site has does not stay online, and
// it is online again when it has returned and is reported.
func deviceOfNoSite(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a")
	w.start("one")
	s := w.site("plant-a")
	s.register("a1")
	create := func(gvr schema.GroupVersionResource, kind, name string, spec map[string]any) *unstructured.Unstructured {
		o, err := a.dynamic.Resource(gvr).Namespace(w.namespace).Create(w.ctx, &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "devices.kubeedge.io/v1beta1", "kind": kind, "metadata": map[string]any{"name": name}, "spec": spec,
		}}, metav1.CreateOptions{})
		w.must(err)
		return o
	}
	create(modelsGVR, "DeviceModel", "pump", map[string]any{"protocol": "modbus"})
	device := create(devicesGVR, "Device", "pump", map[string]any{"nodeName": "a1", "deviceModelRef": map[string]any{"name": "pump"}})
	create(devicesGVR, "Device", "never", map[string]any{"nodeName": "nobody", "deviceModelRef": map[string]any{"name": "pump"}})
	ref := streams.Ref{Node: "a1", Group: "devices.kubeedge.io", Resource: "devices", Namespace: w.namespace, Name: "pump"}
	w.awaitDesired("plant-a", ref, "published", isPut)
	statusRef := ref
	statusRef.Resource = "devicestatuses"
	report := func() {
		s.report(streams.OpPut, statusRef, string(device.GetUID()), map[string]any{
			"apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceStatus", "metadata": map[string]any{"name": "pump", "namespace": w.namespace},
			"status": map[string]any{"state": "online", "extensions": map[string]any{"reason": "Online"}, "twins": []any{map[string]any{"propertyName": "level", "reported": map[string]any{"value": "1"}}}},
		})
	}
	is := func(name, state, reason string) func() bool {
		return func() bool {
			status, err := a.dynamic.Resource(statusesGVR).Namespace(w.namespace).Get(w.ctx, name, metav1.GetOptions{})
			if err != nil {
				return false
			}
			d, err := a.dynamic.Resource(devicesGVR).Namespace(w.namespace).Get(w.ctx, name, metav1.GetOptions{})
			w.must(err)
			in, _, _ := unstructured.NestedString(status.Object, "status", "state")
			mirrored, _, _ := unstructured.NestedString(d.Object, "status", "state")
			why, _, _ := unstructured.NestedString(status.Object, "status", "extensions", "reason")
			return in == state && mirrored == state && why == reason
		}
	}
	move := func(node string) {
		_, err := a.dynamic.Resource(devicesGVR).Namespace(w.namespace).Patch(w.ctx, "pump", types.MergePatchType, []byte(`{"spec":{"nodeName":"`+node+`"}}`), metav1.PatchOptions{})
		w.must(err)
	}
	report()
	eventually(t, "online", is("pump", "online", "Online"))
	move("nobody")
	eventually(t, "unknown, because the node does not exist", is("pump", "unknown", "NodeOfNoSite"))
	eventually(t, "a device that never had a site", is("never", "unknown", "NodeOfNoSite"))
	move("a1")
	w.awaitDesired("plant-a", ref, "published again", isPut)
	report()
	eventually(t, "online again", is("pump", "online", "Online"))

	_, err := a.admin.CoreV1().Nodes().Patch(w.ctx, "a1", types.MergePatchType, []byte(`{"metadata":{"labels":{"`+v1alpha1.SiteLabel+`":null}}}`), metav1.PatchOptions{})
	w.must(err)
	unknown := is("pump", "unknown", "NodeOfNoSite")
	for start := time.Now(); !unknown(); time.Sleep(100 * time.Millisecond) {
		if time.Since(start) > 2*patience {
			t.Fatalf("the device of a node that belongs to no site is not unknown within %v", 2*patience)
		}
	}
}

func writesDeviceStatus(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a")
	b := w.start("one")
	s := w.site("plant-a")
	s.register("a1")
	make := func(gvr schema.GroupVersionResource, kind string, spec map[string]any) *unstructured.Unstructured {
		o, err := a.dynamic.Resource(gvr).Namespace(w.namespace).Create(w.ctx, &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "devices.kubeedge.io/v1beta1", "kind": kind, "metadata": map[string]any{"name": "pump"}, "spec": spec,
		}}, metav1.CreateOptions{})
		w.must(err)
		return o
	}
	make(modelsGVR, "DeviceModel", map[string]any{"protocol": "modbus"})
	device := make(devicesGVR, "Device", map[string]any{"nodeName": "a1", "deviceModelRef": map[string]any{"name": "pump"}})
	ref := streams.Ref{Node: "a1", Group: "devices.kubeedge.io", Resource: "devices", Namespace: w.namespace, Name: "pump"}
	w.awaitDesired("plant-a", ref, "published", isPut)
	w.awaitDesired("plant-a", streams.Ref{Group: ref.Group, Resource: "devicemodels", Namespace: w.namespace, Name: "pump"}, "published", isPut)

	statusRef := ref
	statusRef.Resource = "devicestatuses"
	report := func(uid types.UID, value, state string) {
		status := map[string]any{"twins": []any{map[string]any{"propertyName": "level", "reported": map[string]any{"value": value}}}}
		if state != "" {
			status["state"] = state
		}
		s.report(streams.OpPut, statusRef, string(uid), map[string]any{
			"apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceStatus",
			"metadata": map[string]any{"name": "pump", "namespace": w.namespace, "uid": string(uid)}, "status": status,
		})
	}
	is := func(value, state string) func() bool {
		return func() bool {
			o, err := a.dynamic.Resource(statusesGVR).Namespace(w.namespace).Get(w.ctx, "pump", metav1.GetOptions{})
			if err != nil {
				return false
			}
			twins, _, _ := unstructured.NestedSlice(o.Object, "status", "twins")
			got, _, _ := unstructured.NestedString(o.Object, "status", "state")
			data, err := json.Marshal(twins)
			w.must(err)
			owners := o.GetOwnerReferences()
			return len(owners) == 1 && owners[0].UID == device.GetUID() && strings.Contains(string(data), `"value":"`+value+`"`) && got == state
		}
	}
	report(device.GetUID(), "1", "online")
	eventually(t, "DeviceStatus", is("1", "online"))
	mirrored := func(want string) func() bool {
		return func() bool {
			o, err := a.dynamic.Resource(devicesGVR).Namespace(w.namespace).Get(w.ctx, "pump", metav1.GetOptions{})
			w.must(err)
			got, _, _ := unstructured.NestedString(o.Object, "status", "state")
			return got == want
		}
	}
	_, published := w.desired("plant-a", ref)
	eventually(t, "the Device says the state", mirrored("online"))
	report(device.GetUID(), "2", "")
	eventually(t, "changed DeviceStatus, without what is gone", is("2", ""))

	dropped := b.Counters().Dropped
	report("00000000-0000-0000-0000-000000000001", "9", "")
	eventually(t, "status of another device of that name dropped", func() bool { return b.Counters().Dropped == dropped+1 })
	if !is("2", "")() {
		t.Error("the DeviceStatus was overwritten")
	}
	report(device.GetUID(), "3", "online")
	eventually(t, "the state again", mirrored("online"))
	for silent := time.Now(); !mirrored("unknown")(); time.Sleep(100 * time.Millisecond) {
		if time.Since(silent) > streams.PresenceTimeout+patience {
			t.Fatal("a silent site's devices are not unknown")
		}
	}
	if _, now := w.desired("plant-a", ref); now != published {
		t.Errorf("the Device was published again (%d after %d) because of its state", now, published)
	}
	w.must(a.dynamic.Resource(devicesGVR).Namespace(w.namespace).Delete(w.ctx, "pump", metav1.DeleteOptions{}))
	w.awaitDesired("plant-a", ref, "deleted", tombstoneOf(device.GetUID()))
}

func handsOutTokens(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a", "plant-b")
	w.start("one")
	s, other := w.site("plant-a"), w.site("plant-b")
	s.register("a1")
	w.configMap("settings", "1")
	pod := w.pod("web", "a1", "settings")
	w.settled("plant-a", "web", "a1")

	ask := func(s *site, node string, pod *corev1.Pod) streams.TokenAnswer {
		t.Helper()
		q := streams.TokenQuery{Node: node, Namespace: w.namespace, ServiceAccount: "default"}
		if pod != nil {
			q.TokenRequest.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}
		}
		data, err := json.Marshal(q)
		w.must(err)
		m, err := s.nc.Request(streams.RequestSubject(s.name, streams.RequestToken), data, patience)
		w.must(err)
		var answer streams.TokenAnswer
		w.must(json.Unmarshal(m.Data, &answer))
		return answer
	}
	got := ask(s, "a1", pod)
	if got.TokenRequest == nil || got.TokenRequest.Status.Token == "" {
		t.Fatalf("answer is %+v", got.Status)
	}
	review, err := a.admin.AuthenticationV1().TokenReviews().Create(w.ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: got.TokenRequest.Status.Token}}, metav1.CreateOptions{})
	w.must(err)
	if want := "system:serviceaccount:" + w.namespace + ":default"; review.Status.User.Username != want {
		t.Errorf("token is of %q, want %q", review.Status.User.Username, want)
	}
	for what, answer := range map[string]streams.TokenAnswer{
		"bound to no pod": ask(s, "a1", nil), "for another site's node": ask(other, "a1", pod), "for no node": ask(s, "nowhere", pod),
	} {
		if answer.Status == nil || answer.Status.Reason != metav1.StatusReasonForbidden {
			t.Errorf("token %s: %+v", what, answer)
		}
	}
	m, err := s.nc.Request(streams.RequestSubject("plant-a", "gold"), nil, patience)
	w.must(err)
	if !strings.Contains(string(m.Data), `"BadRequest"`) {
		t.Errorf("unknown request is answered %s", m.Data)
	}
}

func setsPoisonAside(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a")
	b := w.start("one")
	s := w.site("plant-a")
	s.register("a1")
	w.configMap("settings", "1")
	pod := w.pod("web", "a1", "settings")
	w.settled("plant-a", "web", "a1")

	poison := func(subject, op, data string) {
		m := nats.NewMsg(subject)
		m.Data = []byte(data)
		if op != "" {
			m.Header.Set(streams.HeaderOp, op)
		}
		s.send(m)
	}
	poison("reported.plant-a.nonsense", "put", "{}")
	poison("reported.plant-a.a1._.pods.default.broken", "put", "{not json")
	poison("reported.plant-a.a1._.pods.default.explode", "explode", `{"metadata":{"name":"explode"}}`)
	poison("reported.plant-a.a1._.widgets.default.strange", "put", `{"metadata":{"name":"strange"}}`)
	poison("reported.plant-a.a1._.nodes._.a1", "put", `{"metadata":{"name":"a1"},"status":{"capacity":{"cpu":"nonsense"}}}`)
	s.report(streams.OpPut, w.podRef("web", "a1"), string(pod.UID), reported(pod, corev1.PodRunning, corev1.ConditionTrue))

	eventually(t, "later report written", func() bool { return w.getPod("web").Status.Phase == corev1.PodRunning })
	eventually(t, "five messages quarantined", func() bool { return len(w.quarantined("plant-a")) == 5 })
	if n := b.Counters().Quarantined; n != 5 {
		t.Errorf("counted %d", n)
	}
	for _, reason := range w.quarantined("plant-a") {
		if reason == "" {
			t.Error("a quarantined message has no reason")
		}
	}
	w.dealtWith("plant-a")
}

func keepsSitesApart(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a", "plant-b")
	w.start("one")
	s, thief := w.site("plant-a"), w.site("plant-b")
	s.register("a1")
	thief.register("b1")
	_, err := a.admin.CoreV1().Nodes().Create(w.ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "control-plane"}}, metav1.CreateOptions{})
	w.must(err)
	w.configMap("settings", "1")
	pod := w.pod("web", "a1", "settings")
	w.settled("plant-a", "web", "a1")

	failed := reported(pod, corev1.PodFailed, corev1.ConditionFalse)
	thief.report(streams.OpPut, w.podRef("web", "a1"), string(pod.UID), failed) // as the other's node
	thief.report(streams.OpPut, w.podRef("web", "b1"), string(pod.UID), failed) // as its own node
	thief.report(streams.OpDelete, w.podRef("web", "a1"), string(pod.UID), nil)
	thief.reportNode("a1", corev1.ConditionFalse)
	thief.reportNode("control-plane", corev1.ConditionTrue)
	eventually(t, "all refused", func() bool {
		return len(w.quarantined("plant-b")) == 5 || len(w.quarantined("plant-b")) == 4 && len(w.quarantined(".a1._.pods")) == 1
	})
	if p := w.getPod("web"); p.Status.Phase == corev1.PodFailed {
		t.Error("another site failed the pod")
	}
	for name, owner := range map[string]string{"a1": "plant-a", "b1": "plant-b", "control-plane": ""} {
		n, err := a.admin.CoreV1().Nodes().Get(w.ctx, name, metav1.GetOptions{})
		w.must(err)
		if n.Labels[v1alpha1.SiteLabel] != owner {
			t.Errorf("node %s belongs to %q", name, n.Labels[v1alpha1.SiteLabel])
		}
		if name == "a1" && nodeCondition(n, corev1.NodeReady) != corev1.ConditionTrue {
			t.Error("another site made a1 not ready")
		}
	}
	// The hub keeps the sites' subjects apart before the bridge has to.
	if _, err := thief.nc.Request("reported.plant-a.a1._.nodes._.a1", []byte("{}"), time.Second); err == nil {
		t.Error("a site can publish another's reports")
	}
}
