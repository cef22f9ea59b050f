package bridgetest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/bridge/bounds"
	"github.com/petiole-io/petiole/internal/siege"
	"github.com/petiole-io/petiole/streams"
)

// maxBridgeMemory is what the bridge may take while one site does its worst: half of the limit of
// deploy/kubernetes/bridge.yaml.
const maxBridgeMemory = 512 << 20

// TestOneSiteAtItsWorst has one site report as many and as large objects as it can, to a bridge in
// a process of its own: the bridge's memory, another site's latencies and what is in the API stay
// within bounds, also after the bridge has been started again.
func TestOneSiteAtItsWorst(t *testing.T) {
	w := newWorld(t, sharedAPI(t), "plant-a", "plant-b")
	b := w.run("one", w.kubeconfig)
	s, worst := w.site("plant-a"), w.site("plant-b")
	s.register("a1")
	worst.register("b1")
	w.configMap("settings", "1")
	w.pod("web", "a1", "settings")
	w.settled("plant-a", "web", "a1")

	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	var g sync.WaitGroup
	for _, attack := range []func(context.Context, *site, int){mirrorPodFlood, statusFlood, eventFlood} {
		g.Go(func() {
			attacker := *worst
			attacker.nc = w.hub.Connect(t, "plant-b")
			for n := 0; ctx.Err() == nil; n++ {
				attack(ctx, &attacker, n)
			}
		})
	}
	others := w.observe(s, "web", siege.Time(t, 6*time.Second), func() { worst.beat(0, "b1") })
	peak := b.peakMemory()
	others.Check(t)
	t.Logf("the bridge took %d MiB at most", peak>>20)
	if peak > maxBridgeMemory {
		t.Errorf("the bridge took %d MiB, the limit is %d MiB", peak>>20, maxBridgeMemory>>20)
	}

	mirrors := 0
	pods, err := w.admin.CoreV1().Pods(w.namespace).List(w.ctx, metav1.ListOptions{})
	w.must(err)
	for _, p := range pods.Items {
		if p.Annotations[corev1.MirrorPodAnnotationKey] != "" {
			mirrors++
		}
	}
	events, err := w.admin.CoreV1().Events(w.namespace).List(w.ctx, metav1.ListOptions{})
	w.must(err)
	t.Logf("the API has %d mirror pods and %d Events of the site", mirrors, len(events.Items))
	if mirrors == 0 || mirrors > bounds.MaxMirrorPods {
		t.Errorf("%d mirror pods, want 1 to %d", mirrors, bounds.MaxMirrorPods)
	}
	eventually(t, "the Site says so", func() bool {
		worst.beat(0, "b1")
		return w.condition("plant-b", v1alpha1.ConditionWithinLimits).Status == metav1.ConditionFalse
	})
	t.Log(w.condition("plant-b", v1alpha1.ConditionWithinLimits).Message)
	if c := w.condition("plant-a", v1alpha1.ConditionWithinLimits); c.Status != metav1.ConditionTrue {
		t.Errorf("the other site's condition: %+v", c)
	}

	b.kill()
	next := w.run("two", w.kubeconfig)
	w.observe(s, "web", time.Nanosecond, func() { worst.beat(0, "b1") }) // until it leads
	others = w.observe(s, "web", siege.Time(t, 3*time.Second), func() { worst.beat(0, "b1") })
	cancel()
	g.Wait()
	peak = next.peakMemory()
	t.Logf("the next bridge took %d MiB at most", peak>>20)
	if peak > maxBridgeMemory {
		t.Errorf("the next bridge took %d MiB, the limit is %d MiB", peak>>20, maxBridgeMemory>>20)
	}
	others.Check(t)
}

// publish sends a message, as fast as the hub stores them.
func (s *site) publish(ctx context.Context, r streams.Ref, op streams.Op, uid string, object any) {
	data, err := json.Marshal(object)
	if err != nil {
		s.t.Error(err)
		return
	}
	m := streams.Message{Ref: r, Op: op, UID: uid, Object: data}
	waiting, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	// Refused while the site's stream is full: that is another bound.
	if reply, err := s.nc.RequestMsgWithContext(waiting, m.Encode(streams.ReportedSubject(s.name, r))); err == nil && strings.Contains(string(reply.Data), "error") {
		time.Sleep(20 * time.Millisecond)
	}
}

// mirrorPodFlood creates a mirror pod that is as large as may be, of many small objects, which
// take most memory, or far too large.
func mirrorPodFlood(ctx context.Context, s *site, n int) {
	bytes := bounds.MaxMirrorPodBytes * 9 / 10
	if n%4 == 3 {
		bytes = 772 << 10
	}
	name := fmt.Sprint("static-", n%300)
	pod := corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: s.namespace, Annotations: map[string]string{corev1.MirrorPodAnnotationKey: "hash"}},
		Spec:       corev1.PodSpec{NodeName: "b1", Containers: []corev1.Container{{Name: "c", Image: "busybox"}}},
	}
	yes := true
	pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "b1", UID: "any", Controller: &yes}}
	const each = 16 // bytes of an entry as it is counted
	for i := range bytes / each {
		pod.Spec.Containers[0].Env = append(pod.Spec.Containers[0].Env, corev1.EnvVar{Name: fmt.Sprintf("E%06d", i), Value: "v"})
	}
	s.publish(ctx, s.podRef(name, "b1"), streams.OpCreate, "", pod)
}

// statusFlood reports a status as large as may be, or larger, of each pod of the site.
func statusFlood(ctx context.Context, s *site, n int) {
	pods, err := s.admin.CoreV1().Pods(s.namespace).List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=b1"})
	if err != nil || len(pods.Items) == 0 {
		time.Sleep(50 * time.Millisecond)
		return
	}
	for i := range pods.Items {
		p := reported(&pods.Items[i], corev1.PodRunning, corev1.ConditionTrue)
		bytes := bounds.MaxPodStatusBytes * 9 / 10
		if i%4 == 3 {
			bytes = 572 << 10
		}
		p.Status.Message = strings.Repeat(strconv.Itoa(n%10), bytes)
		s.publish(ctx, s.podRef(p.Name, "b1"), streams.OpPut, string(p.UID), p)
	}
}

// eventFlood reports an Event as large as may be.
func eventFlood(ctx context.Context, s *site, n int) {
	name := fmt.Sprint("flood.", n)
	s.publish(ctx, streams.Ref{Node: "b1", Resource: "events", Namespace: s.namespace, Name: name}, streams.OpCreate, "", corev1.Event{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Event"}, ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: s.namespace},
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: s.namespace, Name: "static-0"}, Reason: "Flood",
		Message: strings.Repeat("x", bounds.MaxEventBytes*9/10), Source: corev1.EventSource{Component: "kubelet", Host: "b1"},
	})
}

// observe measures for a while how long a site's reports take to the API, and changes in the API
// to the hub. Meanwhile it calls beat often.
func (w *world) observe(s *site, pod string, d time.Duration, beat func()) *siege.Latencies {
	w.t.Helper()
	l := &siege.Latencies{}
	p := w.getPod(pod)
	end := time.Now().Add(d)
	for more := true; more; more = time.Now().Before(end) {
		s.beat(0, p.Spec.NodeName)
		beat()
		message := fmt.Sprint("observed ", time.Now().UnixNano())
		r := reported(p, corev1.PodRunning, corev1.ConditionTrue)
		r.Status.Message = message
		s.report(streams.OpPut, w.podRef(pod, p.Spec.NodeName), string(p.UID), r)
		l.AddReport(w.timed("report of "+s.name, func() bool { return w.getPod(pod).Status.Message == message }))
		w.setConfigMap("settings", message)
		l.AddChange(w.timed("change for "+s.name, func() bool {
			m, _ := w.desired(s.name, w.configMapRef("settings"))
			return m != nil && contains(message)(m)
		}))
	}
	return l
}

// timed waits for a condition and returns how long that took.
func (w *world) timed(what string, cond func() bool) time.Duration {
	w.t.Helper()
	start := time.Now()
	eventually(w.t, what, cond)
	return time.Since(start)
}

// peakMemory returns the largest resident memory that the process has had.
func (p *process) peakMemory() uint64 {
	p.w.t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	p.w.must(err)
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(data)
	if m == nil {
		p.w.t.Fatalf("no VmHWM in the status of the process %d", p.cmd.Process.Pid)
	}
	kb, err := strconv.ParseUint(string(m[1]), 10, 64)
	p.w.must(err)
	return kb << 10
}
