package nodeapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/petiole-io/petiole/streams"
)

// patchStatus does what a kubelet's status manager does: a strategic merge patch of
// the status that names the pod's UID.
func patchStatus(t *testing.T, c kubernetes.Interface, old *corev1.Pod, uid string, change func(*corev1.PodStatus)) (*corev1.Pod, error) {
	t.Helper()
	next := old.DeepCopy()
	change(&next.Status)
	a, err := json.Marshal(corev1.Pod{Status: old.Status})
	must(t, err)
	b, err := json.Marshal(corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(uid)}, Status: next.Status})
	must(t, err)
	patch, err := strategicpatch.CreateTwoWayMergePatch(a, b, corev1.Pod{})
	must(t, err)
	return c.CoreV1().Pods(old.Namespace).Patch(t.Context(), old.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
}

func running1(s *corev1.PodStatus) {
	s.Phase = corev1.PodRunning
	s.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
}

func TestPodStatusIsStoredBeforeTheAnswerAndKept(t *testing.T) {
	l := newLeaf(t)
	l.pod(newPod("a", "u1", "10"))
	dir := t.TempDir()
	r := l.start(dir)
	c := r.proto()
	pod, err := c.CoreV1().Pods("default").Get(t.Context(), "a", metav1.GetOptions{})
	must(t, err)
	got, err := patchStatus(t, c, pod, "u1", running1)
	must(t, err)
	m, seq := l.reported(podRef("default", "a"))
	if m == nil || m.Op != streams.OpPut || m.UID != "u1" {
		t.Fatalf("reported = %+v", m)
	}
	var up corev1.Pod
	must(t, json.Unmarshal(m.Object, &up))
	if up.Status.Phase != corev1.PodRunning || up.Spec.NodeName != node || up.ResourceVersion != "" {
		t.Errorf("reported pod = %+v", up)
	}
	if got.Status.Phase != corev1.PodRunning || got.ResourceVersion == pod.ResourceVersion {
		t.Errorf("answer = %+v", got)
	}
	// The same status again changes nothing.
	if _, err := patchStatus(t, c, pod, "u1", running1); err != nil {
		t.Error(err)
	}
	if _, again := l.reported(podRef("default", "a")); again != seq {
		t.Error("an unchanged status was reported again")
	}
	if _, err := patchStatus(t, c, pod, "other", running1); !apierrors.IsConflict(err) {
		t.Errorf("status of another UID: %v, want a conflict", err)
	}
	r.stop()
	r = l.start(dir)
	pod, err = r.json().CoreV1().Pods("default").Get(t.Context(), "a", metav1.GetOptions{})
	must(t, err)
	if pod.Status.Phase != corev1.PodRunning || len(pod.Status.Conditions) != 1 {
		t.Errorf("status after a restart = %+v", pod.Status)
	}
	// A change in the cloud keeps the local status.
	r.applied(l.pod(newPod("a", "u1", "20", func(p *corev1.Pod) { p.Labels["x"] = "y" })))
	pod, err = r.json().CoreV1().Pods("default").Get(t.Context(), "a", metav1.GetOptions{})
	must(t, err)
	if pod.Labels["x"] != "y" || pod.Status.Phase != corev1.PodRunning {
		t.Errorf("pod = %+v", pod)
	}
}

func TestStatusByUpdateAndOtherPatches(t *testing.T) {
	l := newLeaf(t)
	l.pod(newPod("a", "u1", "10"))
	r := l.start(t.TempDir())
	for _, c := range []kubernetes.Interface{r.json(), r.proto()} {
		pod, err := c.CoreV1().Pods("default").Get(t.Context(), "a", metav1.GetOptions{})
		must(t, err)
		pod.Status.Message = pod.ResourceVersion
		pod.Labels["ignored"] = "yes"
		got, err := c.CoreV1().Pods("default").UpdateStatus(t.Context(), pod, metav1.UpdateOptions{})
		must(t, err)
		if got.Status.Message != pod.Status.Message || got.Labels["ignored"] != "" {
			t.Errorf("pod = %+v", got)
		}
		if _, err := c.CoreV1().Pods("default").UpdateStatus(t.Context(), pod, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
			t.Errorf("update of an old version: %v, want a conflict", err)
		}
		for kind, patch := range map[types.PatchType]string{
			types.MergePatchType: `{"status":{"reason":"merge"}}`,
			types.JSONPatchType:  `[{"op":"add","path":"/status/reason","value":"json"}]`,
		} {
			got, err := c.CoreV1().Pods("default").Patch(t.Context(), "a", kind, []byte(patch), metav1.PatchOptions{}, "status")
			must(t, err)
			if !strings.Contains(patch, got.Status.Reason) || got.Status.Reason == "" {
				t.Errorf("%s: reason %q", kind, got.Status.Reason)
			}
		}
		if _, err := c.CoreV1().Pods("default").Patch(t.Context(), "a", types.ApplyPatchType, []byte(`{}`), metav1.PatchOptions{FieldManager: "x"}, "status"); !apierrors.IsUnsupportedMediaType(err) {
			t.Errorf("apply: %v", err)
		}
		if _, err := c.CoreV1().Pods("default").Patch(t.Context(), "a", types.MergePatchType, []byte(`{"status":5}`), metav1.PatchOptions{}, "status"); !apierrors.IsBadRequest(err) {
			t.Errorf("nonsense: %v", err)
		}
	}
}

func TestNodeRegistersHereAndTakesTheCloudsIdentity(t *testing.T) {
	l := newLeaf(t)
	dir := t.TempDir()
	r := l.start(dir)
	c := r.proto()
	ref := streams.Ref{Node: node, Resource: "nodes", Name: node}
	if _, err := c.CoreV1().Nodes().Get(t.Context(), node, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Fatalf("before: %v", err)
	}
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node, Labels: map[string]string{"kubernetes.io/hostname": node, "zone": "mine"}}}
	made, err := c.CoreV1().Nodes().Create(t.Context(), n, metav1.CreateOptions{})
	must(t, err)
	if m, _ := l.reported(ref); m == nil || m.Op != streams.OpCreate || made.UID == "" || m.UID != string(made.UID) {
		t.Fatalf("reported = %+v for %+v", m, made)
	}
	if _, err := c.CoreV1().Nodes().Create(t.Context(), n, metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		t.Errorf("second create: %v", err)
	}
	n.Name = "plant-a-2"
	if _, err := c.CoreV1().Nodes().Create(t.Context(), n, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("create of another node: %v", err)
	}
	w, err := c.CoreV1().Nodes().Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=" + node})
	must(t, err)
	got := collect(t, w)
	cloud := &corev1.Node{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Node"},
		ObjectMeta: metav1.ObjectMeta{Name: node, UID: "cloud", ResourceVersion: "50", Labels: map[string]string{"zone": "theirs", "petiole.dev/site": site}},
	}
	r.applied(l.send(ref, streams.OpPut, "cloud", "50", cloud))
	eventually(t, "the cloud's node, as the same node", func() bool {
		return got.kinds() == fmt.Sprintf("ADDED/%s/%s MODIFIED/%s/cloud", node, made.UID, node)
	})
	patch := `{"status":{"conditions":[{"type":"Ready","status":"True"}],"capacity":{"cpu":"2"}},"metadata":{"annotations":{"kubelet":"wrote"}}}`
	_, err = c.CoreV1().Nodes().Patch(t.Context(), node, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status")
	must(t, err)
	m, _ := l.reported(ref)
	var up corev1.Node
	must(t, json.Unmarshal(m.Object, &up))
	if m.Op != streams.OpPut || m.UID != "cloud" || up.Annotations["kubelet"] != "wrote" || up.Labels["zone"] != "mine" ||
		up.Labels["petiole.dev/site"] != "" || up.Status.Capacity.Cpu().String() != "2" {
		t.Errorf("reported = %s %+v", m.Op, up)
	}
	// kubectl cordon on the gateway would be a lie.
	_, err = c.CoreV1().Nodes().Patch(t.Context(), node, types.StrategicMergePatchType, []byte(`{"spec":{"unschedulable":true}}`), metav1.PatchOptions{})
	if !apierrors.IsForbidden(err) {
		t.Errorf("cordon: %v, want forbidden", err)
	}
	r.stop()
	r = l.start(dir)
	back, err := r.json().CoreV1().Nodes().Get(t.Context(), node, metav1.GetOptions{})
	must(t, err)
	if back.UID != "cloud" || back.Labels["zone"] != "theirs" || back.Labels["kubernetes.io/hostname"] != node ||
		back.Annotations["kubelet"] != "wrote" || len(back.Status.Conditions) != 1 {
		t.Errorf("after a restart: %+v", back)
	}
}

// terminating marks a pod as the API server does when it is deleted.
func terminating(p *corev1.Pod) {
	now := metav1.Unix(1_700_000_100, 0)
	p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &now, new(int64)
}

func finalDelete(uid string) metav1.DeleteOptions {
	return metav1.DeleteOptions{GracePeriodSeconds: new(int64), Preconditions: metav1.NewUIDPreconditions(uid)}
}

func TestFinalDeleteIsReportedAndRemembered(t *testing.T) {
	l := newLeaf(t)
	l.pod(newPod("a", "u1", "10"))
	dir := t.TempDir()
	r := l.start(dir)
	c := r.proto()
	pods := c.CoreV1().Pods("default")
	if err := pods.Delete(t.Context(), "a", finalDelete("u1")); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "cloud") {
		t.Errorf("delete of a pod that nobody deleted: %v, want forbidden", err)
	}
	r.applied(l.pod(newPod("a", "u1", "11", terminating)))
	if err := pods.Delete(t.Context(), "a", metav1.DeleteOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("graceful delete here: %v, want forbidden", err)
	}
	if err := pods.Delete(t.Context(), "a", finalDelete("other")); !apierrors.IsConflict(err) {
		t.Errorf("delete of another UID: %v, want a conflict", err)
	}
	w, err := pods.Watch(t.Context(), metav1.ListOptions{})
	must(t, err)
	got := collect(t, w)
	must(t, pods.Delete(t.Context(), "a", finalDelete("u1")))
	eventually(t, "deleted event", func() bool { return got.kinds() == "ADDED/a/u1 DELETED/a/u1" })
	if m, _ := l.reported(podRef("default", "a")); m == nil || m.Op != streams.OpDelete || m.UID != "u1" {
		t.Fatalf("reported = %+v", m)
	}
	gone := func(c kubernetes.Interface) {
		t.Helper()
		if _, err := c.CoreV1().Pods("default").Get(t.Context(), "a", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("the pod came back: %v", err)
		}
	}
	gone(c)
	// The cloud still thinks that it is there.
	r.applied(l.pod(newPod("a", "u1", "12", terminating)))
	gone(c)
	r.stop()
	r = l.start(dir)
	gone(r.json())
	r.applied(l.pod(newPod("a", "u2", "20")))
	back, err := r.json().CoreV1().Pods("default").Get(t.Context(), "a", metav1.GetOptions{})
	must(t, err)
	if back.UID != "u2" || back.Status.Phase != corev1.PodPending {
		t.Errorf("recreated pod = %+v", back)
	}
}

func TestLocalDeleteIsCleanedUpAfterForwarding(t *testing.T) {
	l := newLeaf(t)
	l.pod(newPod("a", "u1", "10", terminating))
	r := l.start(t.TempDir())
	must(t, r.json().CoreV1().Pods("default").Delete(t.Context(), "a", finalDelete("u1")))
	r.applied(l.send(podRef("default", "a"), streams.OpDelete, "u1", "11", nil))
	must(t, r.janitor.round(t.Context()))
	if m, _ := l.reported(podRef("default", "a")); m == nil {
		t.Fatal("the delete was dropped before the hub had it")
	}
	cfg := streams.LocalConsumer(streams.ForwardConsumer, "test", 10)
	must(t, streams.EnsureConsumer(t.Context(), l.js, streams.SiteReported, cfg))
	cons, err := l.js.Consumer(t.Context(), streams.SiteReported, streams.ForwardConsumer)
	must(t, err)
	msg, err := cons.Next()
	must(t, err)
	must(t, msg.DoubleAck(t.Context()))
	eventually(t, "clean up", func() bool {
		must(t, r.janitor.round(t.Context()))
		m, _ := l.reported(podRef("default", "a"))
		return m == nil
	})
}

func TestRecreateUnderOneName(t *testing.T) {
	l := newLeaf(t)
	l.pod(newPod("a", "u1", "10"))
	r := l.start(t.TempDir())
	c := r.proto()
	w, err := c.CoreV1().Pods("default").Watch(t.Context(), metav1.ListOptions{})
	must(t, err)
	got := collect(t, w)
	old, err := c.CoreV1().Pods("default").Get(t.Context(), "a", metav1.GetOptions{})
	must(t, err)
	_, err = patchStatus(t, c, old, "u1", running1)
	must(t, err)
	r.applied(l.pod(newPod("a", "u2", "20")))
	eventually(t, "the old one stops before the new one starts", func() bool {
		return got.kinds() == "ADDED/a/u1 MODIFIED/a/u1 DELETED/a/u1 ADDED/a/u2"
	})
	// What the kubelet still has to say about the old one is not about the new one.
	if _, err := patchStatus(t, c, old, "u1", running1); !apierrors.IsConflict(err) {
		t.Errorf("status of the old pod: %v, want a conflict", err)
	}
	pod, err := c.CoreV1().Pods("default").Get(t.Context(), "a", metav1.GetOptions{})
	must(t, err)
	if pod.Status.Phase != corev1.PodPending {
		t.Errorf("the new pod has the old one's status: %+v", pod.Status)
	}
}

func TestTombstoneOfALivingPodReachesTheKubelet(t *testing.T) {
	l := newLeaf(t)
	l.pod(newPod("a", "u1", "10"))
	r := l.start(t.TempDir())
	w, err := r.proto().CoreV1().Pods("").Watch(t.Context(), metav1.ListOptions{})
	must(t, err)
	got := collect(t, w)
	l.send(podRef("default", "a"), streams.OpDelete, "u1", "11", nil)
	eventually(t, "deleted", func() bool { return got.kinds() == "ADDED/a/u1 DELETED/a/u1" })
}

func TestOrderWithinAnEpoch(t *testing.T) {
	msg := func(op streams.Op, uid, version, epoch string) streams.Message {
		return streams.Message{Op: op, UID: uid, Version: version, Epoch: epoch}
	}
	live := desired{uid: "u1", version: "100", epoch: "e1"}
	gone := desired{uid: "u1", version: "100", epoch: "e1", gone: true}
	for _, c := range []struct {
		name string
		have desired
		m    streams.Message
		want bool
	}{
		{"newer", live, msg(streams.OpPut, "u1", "101", "e1"), true},
		{"longer number", live, msg(streams.OpPut, "u1", "1000", "e1"), true},
		{"older", live, msg(streams.OpPut, "u1", "99", "e1"), false},
		{"the same again", live, msg(streams.OpPut, "u1", "100", "e1"), false},
		{"recreated", live, msg(streams.OpPut, "u2", "101", "e1"), true},
		{"predecessor", live, msg(streams.OpPut, "u0", "50", "e1"), false},
		{"another epoch counts anew", live, msg(streams.OpPut, "u1", "5", "e2"), true},
		{"not a number", live, msg(streams.OpPut, "u1", "", "e1"), true},
		{"deleted", live, msg(streams.OpDelete, "u1", "101", "e1"), true},
		{"no longer wanted, unchanged", live, msg(streams.OpDelete, "u1", "100", "e1"), true},
		{"late tombstone of the predecessor", live, msg(streams.OpDelete, "u0", "101", "e1"), false},
		{"late tombstone of the predecessor, new epoch", live, msg(streams.OpDelete, "u0", "5", "e2"), false},
		{"resurrection", gone, msg(streams.OpPut, "u1", "99", "e1"), false},
		{"wanted again, unchanged", gone, msg(streams.OpPut, "u1", "100", "e1"), true},
		{"recreated after delete", gone, msg(streams.OpPut, "u2", "101", "e1"), true},
		{"deleted twice", gone, msg(streams.OpDelete, "u1", "100", "e1"), false},
	} {
		if got := c.have.yields(c.m); got != c.want {
			t.Errorf("%s: yields = %v, want %v", c.name, got, c.want)
		}
	}
}

func TestMirrorPodsAreMadeHere(t *testing.T) {
	l := newLeaf(t)
	dir := t.TempDir()
	r := l.start(dir)
	c := r.proto()
	pods := c.CoreV1().Pods("default")
	plain := newPod("static", "", "")
	if _, err := pods.Create(t.Context(), plain, metav1.CreateOptions{}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "cloud") {
		t.Errorf("create of a plain pod: %v, want forbidden", err)
	}
	plain.Annotations = map[string]string{mirrorAnnotation: "hash"}
	made, err := pods.Create(t.Context(), plain, metav1.CreateOptions{})
	must(t, err)
	got, err := patchStatus(t, c, made, string(made.UID), running1)
	must(t, err)
	if m, _ := l.reported(podRef("default", "static")); m == nil || m.Op != streams.OpCreate || got.Status.Phase != corev1.PodRunning {
		t.Fatalf("reported = %+v", m)
	}
	r.stop()
	r = l.start(dir)
	c = r.proto()
	pods = c.CoreV1().Pods("default")
	back, err := pods.Get(t.Context(), "static", metav1.GetOptions{})
	must(t, err)
	if back.UID != made.UID || back.Status.Phase != corev1.PodRunning {
		t.Errorf("after a restart: %+v", back)
	}
	// The API server gives it another UID.
	w, err := pods.Watch(t.Context(), metav1.ListOptions{})
	must(t, err)
	events := collect(t, w)
	r.applied(l.pod(newPod("static", "cloud", "30", func(p *corev1.Pod) { p.Annotations = plain.Annotations })))
	eventually(t, "the cloud's mirror pod", func() bool {
		return events.kinds() == fmt.Sprintf("ADDED/static/%s DELETED/static/%s ADDED/static/cloud", made.UID, made.UID)
	})
	must(t, pods.Delete(t.Context(), "static", finalDelete("cloud")))
	again, err := pods.Create(t.Context(), plain, metav1.CreateOptions{})
	must(t, err)
	if again.UID == made.UID {
		t.Error("a UID was given twice")
	}
}

func TestLeasesStayHere(t *testing.T) {
	l := newLeaf(t)
	dir := t.TempDir()
	r := l.start(dir)
	leases := r.proto().CoordinationV1().Leases(nodeLeases)
	holder := node
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: node}, Spec: coordinationv1.LeaseSpec{HolderIdentity: &holder}}
	before := time.Now()
	lease, err := leases.Create(t.Context(), lease, metav1.CreateOptions{})
	must(t, err)
	renew := func() {
		t.Helper()
		now := metav1.NowMicro()
		lease.Spec.RenewTime = &now
		lease, err = leases.Update(t.Context(), lease, metav1.UpdateOptions{})
		must(t, err)
	}
	renew()
	if p := r.Leases(); len(p) != 1 || p[0].Name != node || p[0].Renewed.Before(before) {
		t.Errorf("Leases = %+v", p)
	}
	s, err := l.js.Stream(t.Context(), streams.SiteReported)
	must(t, err)
	if info, err := s.Info(t.Context()); err != nil || info.State.Msgs != 0 {
		t.Errorf("leases were reported: %+v, %v", info, err)
	}
	// A restart forgets the lease; the kubelet goes on renewing it.
	r.stop()
	r = l.start(dir)
	leases = r.proto().CoordinationV1().Leases(nodeLeases)
	renew()
	renew()
	if p := r.Leases(); len(p) != 1 {
		t.Errorf("Leases after a restart = %+v", p)
	}
	must(t, leases.Delete(t.Context(), node, metav1.DeleteOptions{}))
}

func TestEventsAndCSINodesGoUp(t *testing.T) {
	l := newLeaf(t)
	dir := t.TempDir()
	r := l.start(dir)
	c := r.proto()
	ev := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: "default", Name: "a.1"},
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "a"}, Reason: "Pulled", Count: 1,
	}
	_, err := c.CoreV1().Events("default").Create(t.Context(), ev, metav1.CreateOptions{})
	must(t, err)
	_, err = c.CoreV1().Events("default").Patch(t.Context(), "a.1", types.StrategicMergePatchType, []byte(`{"count":2}`), metav1.PatchOptions{})
	must(t, err)
	m, _ := l.reported(streams.Ref{Node: node, Resource: "events", Namespace: "default", Name: "a.1"})
	if m == nil || m.Op != streams.OpPut || !bytes.Contains(m.Object, []byte(`"count":2`)) {
		t.Errorf("reported event = %+v", m)
	}
	_, err = c.StorageV1().CSINodes().Create(t.Context(), &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: node}}, metav1.CreateOptions{})
	must(t, err)
	if m, _ := l.reported(streams.Ref{Node: node, Group: "storage.k8s.io", Resource: "csinodes", Name: node}); m == nil || m.Op != streams.OpCreate {
		t.Errorf("reported csinode = %+v", m)
	}
	must(t, c.ResourceV1().ResourceSlices().DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{FieldSelector: "spec.nodeName=" + node}))
	r.stop()
	r = l.start(dir)
	list, err := r.json().CoreV1().Events("").List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=a,involvedObject.kind=Pod"})
	must(t, err)
	if len(list.Items) != 1 || list.Items[0].Count != 2 {
		t.Errorf("events after a restart = %+v", list.Items)
	}
	if _, err := r.json().StorageV1().CSINodes().Get(t.Context(), node, metav1.GetOptions{}); err != nil {
		t.Errorf("csinode after a restart: %v", err)
	}
}

func TestEventsAreBounded(t *testing.T) {
	var q eventQueue
	now := time.Now()
	for i := range eventMax + 10 {
		q.add(key{"default", fmt.Sprint(i)}, uint64(i+1), now)
	}
	q.add(key{"default", "0"}, 5000, now)
	if out := q.expire(now); len(out) != 10 || out[0].name != "1" {
		t.Errorf("expired %d, first %v; want 10 from 1 on: 0 was renewed", len(out), out[0])
	}
	if out := q.expire(now.Add(2 * eventLife)); len(out) != eventMax {
		t.Errorf("expired %d by age, want %d", len(out), eventMax)
	}
}

func TestForeignWritesPointToTheCloud(t *testing.T) {
	l := newLeaf(t)
	l.configMap(newConfigMap("a", "u1", "10", "x"))
	l.pod(newPod("p", "u2", "11"))
	r := l.start(t.TempDir())
	encodings(t, r, func(t *testing.T, c kubernetes.Interface) {
		ctx := t.Context()
		cms, pods := c.CoreV1().ConfigMaps("default"), c.CoreV1().Pods("default")
		_, create := cms.Create(ctx, newConfigMap("b", "", "", ""), metav1.CreateOptions{})
		_, update := cms.Update(ctx, newConfigMap("a", "u1", "", "y"), metav1.UpdateOptions{})
		_, patch := cms.Patch(ctx, "a", types.MergePatchType, []byte(`{"data":{"key":"y"}}`), metav1.PatchOptions{})
		_, pod := pods.Patch(ctx, "p", types.MergePatchType, []byte(`{"metadata":{"labels":{"a":"b"}}}`), metav1.PatchOptions{})
		for name, err := range map[string]error{
			"create": create, "update": update, "patch": patch, "pod": pod,
			"delete":     cms.Delete(ctx, "a", metav1.DeleteOptions{}),
			"collection": cms.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}),
			"evict":      pods.EvictV1(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p"}}),
		} {
			if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "cloud's API server") {
				t.Errorf("%s: %v, want forbidden with a way out", name, err)
			}
		}
	})
}

func TestOnlyTheNodesTokenIsServed(t *testing.T) {
	l := newLeaf(t)
	dir := t.TempDir()
	r := l.start(dir)
	cfg := r.restConfig()
	anonymous := rest.AnonymousClientConfig(cfg)
	for _, token := range []string{"", "wrong"} {
		anonymous.BearerToken = token
		c, err := kubernetes.NewForConfig(anonymous)
		must(t, err)
		if _, err := c.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
			t.Errorf("token %q: %v, want unauthorized", token, err)
		}
	}
	transport, err := rest.TransportFor(rest.AnonymousClientConfig(cfg))
	must(t, err)
	resp, err := (&http.Client{Transport: transport}).Get(r.URL() + "/healthz")
	must(t, err)
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("healthz: %s", resp.Status)
	}
	v, err := r.json().Discovery().ServerVersion()
	must(t, err)
	if v.Major != "1" || v.Minor != "37" {
		t.Errorf("version = %+v", v)
	}
	first, err := r.Token()
	must(t, err)
	r.stop()
	if again, err := l.start(dir).Token(); err != nil || again != first {
		t.Errorf("the token changed with a restart: %v", err)
	}
}

func TestReviews(t *testing.T) {
	l := newLeaf(t)
	r := l.start(t.TempDir())
	c := r.proto()
	token, err := r.Token()
	must(t, err)
	for tok, want := range map[string]bool{token: true, "other": false} {
		tr, err := c.AuthenticationV1().TokenReviews().Create(t.Context(), &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: tok}}, metav1.CreateOptions{})
		must(t, err)
		if tr.Status.Authenticated != want || want && tr.Status.User.Username != "system:node:"+node {
			t.Errorf("review = %+v", tr.Status)
		}
	}
	for user, want := range map[string]bool{"system:node:" + node: true, "system:anonymous": false} {
		sar, err := c.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), &authorizationv1.SubjectAccessReview{
			Spec: authorizationv1.SubjectAccessReviewSpec{User: user, ResourceAttributes: &authorizationv1.ResourceAttributes{Resource: "nodes", Subresource: "proxy", Verb: "get"}},
		}, metav1.CreateOptions{})
		must(t, err)
		if sar.Status.Allowed != want {
			t.Errorf("%s allowed = %v", user, sar.Status.Allowed)
		}
	}
}
