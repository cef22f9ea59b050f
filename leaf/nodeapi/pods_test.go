package nodeapi

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/petiole-io/petiole/streams"
)

func TestPodStatusIsStoredBeforeTheAnswerAndKept(t *testing.T) {
	t.Parallel()
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
	if up.Status.Phase != corev1.PodRunning || up.Name != "a" || up.Namespace != "default" || up.UID != "u1" {
		t.Errorf("reported pod = %+v", up)
	}
	if up.Status = (corev1.PodStatus{}); !reflect.DeepEqual(up, corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "default", UID: "u1"}}) {
		t.Errorf("more than the status is reported: %s", m.Object)
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

// TestConditionsOfTheControlPlaneComeFromTheCloud gives a pod a readiness gate: its condition
// arrives from the cloud, the kubelet's status does not erase it, and its removal arrives too.
func TestConditionsOfTheControlPlaneComeFromTheCloud(t *testing.T) {
	t.Parallel()
	const gate = "example.com/load-balancer"
	gated := func(status corev1.ConditionStatus) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: gate}}
			// The cloud's copy of the kubelet's conditions is older than the kubelet's.
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionUnknown}}
			if status != "" {
				p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: gate, Status: status})
			}
		}
	}
	l := newLeaf(t)
	l.pod(newPod("a", "u1", "10", gated("")))
	dir := t.TempDir()
	r := l.start(dir)
	c := r.proto()
	conditions := func() string {
		t.Helper()
		pod, err := c.CoreV1().Pods("default").Get(t.Context(), "a", metav1.GetOptions{})
		must(t, err)
		var s []string
		for _, c := range pod.Status.Conditions {
			s = append(s, fmt.Sprintf("%s=%s", c.Type, c.Status))
		}
		return strings.Join(s, " ")
	}
	want := func(when, want string) {
		t.Helper()
		if got := conditions(); got != want {
			t.Errorf("%s: %q, want %q", when, got, want)
		}
	}
	pod, err := c.CoreV1().Pods("default").Get(t.Context(), "a", metav1.GetOptions{})
	must(t, err)
	_, err = patchStatus(t, c, pod, "u1", running1)
	must(t, err)
	want("status of the kubelet", "Ready=True")
	w, err := c.CoreV1().Pods("").Watch(t.Context(), metav1.ListOptions{})
	must(t, err)
	events := collect(t, w)
	r.applied(l.pod(newPod("a", "u1", "11", gated(corev1.ConditionFalse))))
	want("gate closed", gate+"=False Ready=True")
	eventually(t, "the kubelet sees the condition", func() bool { return events.kinds() == "ADDED/a/u1 MODIFIED/a/u1" })
	r.applied(l.pod(newPod("a", "u1", "12", gated(corev1.ConditionTrue))))
	want("gate open", gate+"=True Ready=True")
	// The kubelet computed this status before it saw the gate open.
	_, err = patchStatus(t, c, pod, "u1", func(s *corev1.PodStatus) {
		running1(s)
		s.Message = "later"
		s.Conditions = append(s.Conditions, corev1.PodCondition{Type: gate, Status: corev1.ConditionFalse})
	})
	must(t, err)
	want("a late status of the kubelet", gate+"=True Ready=True")
	r.stop()
	r = l.start(dir)
	c = r.proto()
	want("after a restart", gate+"=True Ready=True")
	r.applied(l.pod(newPod("a", "u1", "13", gated(""))))
	want("condition removed", "Ready=True")
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
	t.Parallel()
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
	// The cloud still has the pod.
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

func TestRecreateUnderOneName(t *testing.T) {
	t.Parallel()
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
	// The kubelet's last status of the old pod does not apply to the new one.
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
	t.Parallel()
	l := newLeaf(t)
	l.pod(newPod("a", "u1", "10"))
	r := l.start(t.TempDir())
	w, err := r.proto().CoreV1().Pods("").Watch(t.Context(), metav1.ListOptions{})
	must(t, err)
	got := collect(t, w)
	l.send(podRef("default", "a"), streams.OpDelete, "u1", "11", nil)
	eventually(t, "deleted", func() bool { return got.kinds() == "ADDED/a/u1 DELETED/a/u1" })
}

func TestMirrorPodsAreCreatedLocally(t *testing.T) {
	t.Parallel()
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
	// The API server assigns another UID.
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
