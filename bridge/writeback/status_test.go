package writeback

import (
	"encoding/json"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/bridge/kube"
)

func TestPodStatusPatch(t *testing.T) {
	t.Parallel()
	ready := func(s corev1.ConditionStatus) corev1.PodCondition {
		return corev1.PodCondition{Type: corev1.PodReady, Status: s}
	}
	gate := corev1.PodCondition{Type: "example.com/gate", Status: corev1.ConditionTrue}
	staleGate := corev1.PodCondition{Type: "example.com/gate", Status: corev1.ConditionFalse}
	running := func(c ...corev1.PodCondition) corev1.PodStatus {
		return corev1.PodStatus{Phase: corev1.PodRunning, Conditions: c}
	}
	tests := []struct {
		name              string
		current, reported corev1.PodStatus
		want              corev1.PodStatus
		nothing           bool
	}{
		{name: "the same", current: running(ready("True")), reported: running(ready("True")), nothing: true},
		{name: "KCM said not ready", current: running(ready("False")), reported: running(ready("True")), want: running(ready("True"))},
		{name: "the cloud's conditions are the cloud's", current: running(ready("True"), gate), reported: running(ready("True"), staleGate), nothing: true},
		{name: "a terminal phase is never left", current: corev1.PodStatus{Phase: corev1.PodFailed}, reported: running(ready("True")), nothing: true},
		{name: "ends", current: running(), reported: corev1.PodStatus{Phase: corev1.PodSucceeded}, want: corev1.PodStatus{Phase: corev1.PodSucceeded}},
		{
			name: "fields that are gone", current: corev1.PodStatus{Phase: corev1.PodPending, Reason: "Wait", PodIP: "10.0.0.1"}, reported: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.2"},
			want: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.2"},
		},
		{name: "what the cloud decides", current: corev1.PodStatus{Phase: corev1.PodPending, QOSClass: corev1.PodQOSBurstable, NominatedNodeName: "n"}, reported: corev1.PodStatus{Phase: corev1.PodPending}, nothing: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			current := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u1"}, Status: tt.current}
			patch, err := podStatusPatch(current, tt.reported)
			if err != nil {
				t.Fatal(err)
			}
			if (patch == nil) != tt.nothing {
				t.Fatalf("patch is %s", patch)
			}
			if patch == nil {
				return
			}
			var p corev1.Pod
			if err := json.Unmarshal(patch, &p); err != nil || p.UID != "u1" {
				t.Errorf("patch %s does not carry the UID: %v", patch, err)
			}
			if got := apply(t, current, patch); got != mustJSON(t, tt.want) {
				t.Errorf("status becomes %s, want %s", got, mustJSON(t, tt.want))
			}
		})
	}
}

func apply(t *testing.T, to *corev1.Pod, patch []byte) string {
	t.Helper()
	out, err := strategicpatch.StrategicMergePatch([]byte(mustJSON(t, to)), patch, corev1.Pod{})
	if err != nil {
		t.Fatal(err)
	}
	var p corev1.Pod
	if err := json.Unmarshal(out, &p); err != nil {
		t.Fatal(err)
	}
	return mustJSON(t, p.Status)
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestMergeNodeStatus(t *testing.T) {
	t.Parallel()
	at := func(n int) metav1.Time { return metav1.NewTime(time.Unix(int64(n), 0)) }
	cond := func(kind corev1.NodeConditionType, s corev1.ConditionStatus, beat int) corev1.NodeCondition {
		return corev1.NodeCondition{Type: kind, Status: s, LastHeartbeatTime: at(beat)}
	}
	tests := []struct {
		name              string
		current, reported []corev1.NodeCondition
		fresh             bool
		want              []corev1.NodeCondition
	}{
		{"fresh heartbeat", []corev1.NodeCondition{cond("Ready", "True", 1)}, []corev1.NodeCondition{cond("Ready", "True", 5)}, true, []corev1.NodeCondition{cond("Ready", "True", 5)}},
		{"old heartbeat", []corev1.NodeCondition{cond("Ready", "True", 9)}, []corev1.NodeCondition{cond("Ready", "True", 5)}, false, []corev1.NodeCondition{cond("Ready", "True", 9)}},
		{"KCM said unknown", []corev1.NodeCondition{cond("Ready", "Unknown", 5)}, []corev1.NodeCondition{cond("Ready", "True", 5)}, false, []corev1.NodeCondition{cond("Ready", "True", 77)}},
		{
			"the cloud's conditions stay",
			[]corev1.NodeCondition{cond(v1alpha1.SiteConnectedCondition, "False", 1), cond("NetworkUnavailable", "False", 1)},
			[]corev1.NodeCondition{cond(v1alpha1.SiteConnectedCondition, "True", 5), cond("NetworkUnavailable", "True", 5)},
			true,
			[]corev1.NodeCondition{cond(v1alpha1.SiteConnectedCondition, "False", 1), cond("NetworkUnavailable", "False", 1)},
		},
		{"new condition", nil, []corev1.NodeCondition{cond("Ready", "True", 5)}, true, []corev1.NodeCondition{cond("Ready", "True", 5)}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			volumes := []corev1.AttachedVolume{{Name: "v"}}
			got := mergeNodeStatus(corev1.NodeStatus{Conditions: tt.current, VolumesAttached: volumes}, corev1.NodeStatus{Conditions: tt.reported}, tt.fresh, at(77).Time)
			if mustJSON(t, got.Conditions) != mustJSON(t, tt.want) || len(got.VolumesAttached) != 1 {
				t.Errorf("conditions become %s, want %s", mustJSON(t, got.Conditions), mustJSON(t, tt.want))
			}
		})
	}
}

func TestNodeStatusPatchReplacesAddresses(t *testing.T) {
	t.Parallel()
	node := func(addresses ...string) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", UID: "u"}}
		for _, a := range addresses {
			n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
		}
		return n
	}
	current, wanted := node("10.0.0.1", "10.0.0.2"), node("10.0.0.3")
	patch, err := nodeStatusPatch(current, wanted)
	if err != nil {
		t.Fatal(err)
	}
	out, err := strategicpatch.StrategicMergePatch([]byte(mustJSON(t, current)), patch, corev1.Node{})
	if err != nil {
		t.Fatal(err)
	}
	var got corev1.Node
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	if mustJSON(t, got.Status) != mustJSON(t, wanted.Status) {
		t.Errorf("patch %s makes %s", patch, mustJSON(t, got.Status))
	}
}

// BenchmarkPodStatusUnchanged looks at a pod whose status the API has already: after the
// bridge's own write, after a relist, and for every pod of a site that comes back.
func BenchmarkPodStatusUnchanged(b *testing.B) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", UID: "u1", ResourceVersion: "10"}, Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1"}}
	now := metav1.Unix(1_700_000_000, 0)
	for _, c := range []corev1.PodConditionType{corev1.PodReady, corev1.ContainersReady, corev1.PodInitialized, corev1.PodScheduled} {
		pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: c, Status: corev1.ConditionTrue, LastTransitionTime: now})
	}
	for _, name := range []string{"main", "sidecar"} {
		pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, corev1.ContainerStatus{
			Name: name, Ready: true, Image: "registry.example.com/" + name, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}},
		})
	}
	data, err := json.Marshal(pod)
	if err != nil {
		b.Fatal(err)
	}
	var cached unstructured.Unstructured
	if err := json.Unmarshal(data, &cached.Object); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		var current, reported corev1.Pod
		if err := kube.Decode(&cached, &current); err != nil {
			b.Fatal(err)
		}
		if err := json.Unmarshal(data, &reported); err != nil {
			b.Fatal(err)
		}
		if patch, err := podStatusPatch(&current, reported.Status); patch != nil || err != nil {
			b.Fatalf("%s, %v", patch, err)
		}
	}
}

func TestPodAddresses(t *testing.T) {
	t.Parallel()
	ips := func(a ...string) (out []corev1.PodIP) {
		for _, ip := range a {
			out = append(out, corev1.PodIP{IP: ip})
		}
		return out
	}
	host := []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.7"}, {Type: corev1.NodeHostName, Address: "a1"}}
	for _, c := range []struct {
		in   corev1.PodStatus
		want corev1.PodStatus
		n    int
	}{
		{corev1.PodStatus{PodIP: "10.88.0.4", PodIPs: ips("10.88.0.4", "fd00::4")}, corev1.PodStatus{PodIP: "10.88.0.4", PodIPs: ips("10.88.0.4", "fd00::4")}, 0},
		{corev1.PodStatus{PodIP: "192.0.2.7", PodIPs: ips("192.0.2.7")}, corev1.PodStatus{PodIP: "192.0.2.7", PodIPs: ips("192.0.2.7")}, 0},
		{corev1.PodStatus{PodIP: "10.96.0.1", PodIPs: ips("10.96.0.1", "fd00::4")}, corev1.PodStatus{PodIP: "fd00::4", PodIPs: ips("fd00::4")}, 1},
		{corev1.PodStatus{PodIP: "10.96.0.1", PodIPs: ips("10.96.0.1", "a1")}, corev1.PodStatus{}, 2},
		{corev1.PodStatus{}, corev1.PodStatus{}, 0},
	} {
		got := *c.in.DeepCopy()
		dropped := keepAddresses(&got, []string{"10.88.0.0/24", "fd00::/64"}, host)
		if !equality.Semantic.DeepEqual(got, c.want) || len(dropped) != c.n {
			t.Errorf("%+v: %+v, dropped %v", c.in, got, dropped)
		}
	}
}
