package bridgetest

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/bridge"
	"github.com/petiole-io/petiole/streams"
)

// TestAway: what waits for a site, and what a site may make others wait for.
func TestAway(t *testing.T) {
	runAll(t, []sharing{
		{"TombstonesWaitForTheSite", tombstonesWaitForTheSite},
		{"FloodOfOneSiteHoldsUpNobody", floodOfOneSite},
		{"DeferredReportsArrive", deferredReportsArrive},
		{"SilentSitesTakeNoPlace", silentSitesTakeNoPlace},
		{"BoundsWhatASiteSends", boundsWhatASiteSends},
	})
}

// projected makes a pod that mounts n ConfigMaps, which are made as well.
func (w *world) projected(pod, node string, n int) []streams.Ref {
	w.t.Helper()
	var refs []streams.Ref
	var sources []corev1.VolumeProjection
	for i := range n {
		name := fmt.Sprintf("many-%d", i)
		w.configMap(name, "1")
		refs = append(refs, w.configMapRef(name))
		sources = append(sources, corev1.VolumeProjection{ConfigMap: &corev1.ConfigMapProjection{
			LocalObjectReference: corev1.LocalObjectReference{Name: name}, Items: []corev1.KeyToPath{{Key: "v", Path: name}},
		}})
	}
	_, err := w.admin.CoreV1().Pods(w.namespace).Create(w.ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: pod},
		Spec: corev1.PodSpec{
			NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "busybox"}},
			Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: sources}}}},
		},
	}, metav1.CreateOptions{})
	w.must(err)
	return refs
}

// tombstones counts those that DESIRED holds for a site, and checks that none goes by
// itself.
func (w *world) tombstones(site string) (n int) {
	w.t.Helper()
	s, err := w.js.Stream(w.ctx, streams.Desired)
	w.must(err)
	if c := s.CachedInfo().Config; c.MaxAge != 0 || c.MaxBytes > 0 || c.MaxMsgs > 0 {
		w.t.Errorf("%s forgets by itself: %+v", streams.Desired, c)
	}
	cons, err := s.OrderedConsumer(w.ctx, jetstream.OrderedConsumerConfig{HeadersOnly: true, FilterSubjects: []string{streams.DesiredFilter(site)}})
	w.must(err)
	left := int(s.CachedInfo().State.Msgs)
	for left > 0 {
		m, err := cons.Next(jetstream.FetchMaxWait(time.Second))
		if err != nil {
			return n
		}
		meta, err := m.Metadata()
		w.must(err)
		left = int(meta.NumPending)
		if m.Headers().Get(streams.HeaderOp) == string(streams.OpDelete) {
			n++
		}
		if ttl := m.Headers().Get(jetstream.MsgTTLHeader); ttl != "" {
			w.t.Errorf("%s has a time to live of %s", m.Subject(), ttl)
		}
	}
	return n
}

// Tombstones wait for the site, however long it is away, and go when it has passed
// them. A site that then comes back with a store from before them has no zombies.
func tombstonesWaitForTheSite(t *testing.T, a *api) {
	const n = 1000
	w := newWorld(t, a, "plant-a")
	b := w.start("one")
	s := w.site("plant-a")
	s.register("a1")
	refs := w.projected("web", "a1", n)
	w.settled("plant-a", "web", "a1")
	w.awaitDesired("plant-a", refs[n-1], "published", isPut)
	l := s.leaf()
	l.beat(0, "a1")
	l.equal()
	before := l.image()
	l.disconnect()

	w.must(a.admin.CoreV1().Pods(w.namespace).Delete(w.ctx, "web", metav1.DeleteOptions{GracePeriodSeconds: new(int64)}))
	eventually(t, "a tombstone for each object", func() bool { return b.Counters().Tombstones > n })
	// Another bridge takes over; nothing is swept while the site is away.
	b.stop()
	b = w.start("two")
	w.setConfigMap("many-0", "2") // no longer concerns anybody
	eventually(t, "positions read by the next bridge", func() bool { return w.siteStatus("plant-a").Pending > n })
	b.rounds(t, "the site controller", 2, func(c bridge.Counters) uint64 { return c.SiteRounds })
	if got := w.tombstones("plant-a"); got <= n {
		t.Fatalf("%d tombstones wait, want more than %d", got, n)
	}

	l.connect()
	eventually(t, "all gone at the site", func() bool { _, ok := l.has(refs[0]); return !ok && len(l.image().kept) < n })
	l.equal()
	eventually(t, "tombstones swept", func() bool { return w.tombstones("plant-a") == 0 })

	// The power-cut trap: the store is older than tombstones that are gone.
	l.disconnect()
	l.restore(before)
	l.connect()
	if _, ok := l.has(refs[0]); !ok {
		t.Fatal("the restored store has no zombies: nothing is tested")
	}
	if repairs := l.equal(); repairs == 0 {
		t.Error("nothing had to be repaired")
	}
	for _, r := range refs {
		if _, ok := l.has(r); ok {
			t.Fatalf("%s is a zombie", r)
		}
	}
	eventually(t, "tombstones of the zombies swept", func() bool { return w.tombstones("plant-a") == 0 })
}

// A site that reports more than the API server can take, or about nodes that nobody
// knows, does not keep other sites' reports from being written, and loses nothing.
func floodOfOneSite(t *testing.T, a *api) {
	const n = 3000
	w := newWorld(t, a, "plant-a", "plant-b")
	b := w.start("one")
	s, flooding := w.site("plant-a"), w.site("plant-b")
	s.register("a1")
	flooding.register("b1")
	w.configMap("settings", "1")
	pod := w.pod("web", "a1", "settings")
	w.settled("plant-a", "web", "a1")
	for i := range n {
		// A node that never registers: each report is tried for two minutes.
		m := streams.Message{
			Ref: streams.Ref{Node: "ghost", Resource: "pods", Namespace: w.namespace, Name: fmt.Sprint("p", i)}, Op: streams.OpPut, UID: "u",
			Object: fmt.Appendf(nil, `{"metadata":{"name":"p%d"}}`, i),
		}
		w.must(flooding.nc.PublishMsg(m.Encode(streams.ReportedSubject("plant-b", m.Ref))))
	}
	w.must(flooding.nc.Flush())
	eventually(t, "the flood put off", func() bool { return b.Counters().Deferred > 0 })
	start := time.Now()
	s.report(streams.OpPut, w.podRef("web", "a1"), string(pod.UID), reported(pod, corev1.PodRunning, corev1.ConditionTrue))
	eventually(t, "another site's report written", func() bool { return w.getPod("web").Status.Phase == corev1.PodRunning })
	t.Logf("another site's report was written after %v", time.Since(start).Round(time.Millisecond))
	w.dealtWith("plant-a")
	if left := w.behind("plant-b"); left < n {
		t.Errorf("the next bridge would read %d messages of the flood, want all %d", left, n)
	}
}

// Reports that were put off are dealt with when there is room, also by the next bridge,
// and the stream is trimmed.
func deferredReportsArrive(t *testing.T, a *api) {
	const n = 700
	w := newWorld(t, a, "plant-a")
	f := newFront(t, a.config)
	b := w.startWith("one", w.hubAddr(), f.kubeconfig(a), "constrained")
	s := w.site("plant-a")
	s.register("a1")
	f.inject(eventsFail)
	for i := range n {
		e := corev1.Event{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Event"}, ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("e", i), Namespace: w.namespace},
			InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: w.namespace, Name: "web"}, Reason: "Started", Message: "started", Count: 1, Type: "Normal",
			Source: corev1.EventSource{Component: "kubelet", Host: "a1"},
		}
		data, err := json.Marshal(e)
		w.must(err)
		m := streams.Message{Ref: streams.Ref{Node: "a1", Resource: "events", Namespace: w.namespace, Name: e.Name}, Op: streams.OpCreate, Object: data}
		w.must(s.nc.PublishMsg(m.Encode(streams.ReportedSubject("plant-a", m.Ref))))
	}
	w.must(s.nc.Flush())
	eventually(t, "events put off", func() bool { return b.Counters().Deferred > 0 })
	if left := w.behind("plant-a"); left < n {
		t.Errorf("the next bridge would read %d messages, want the %d events", left, n)
	}
	b.stop()
	f.inject(nil)
	w.startWith("two", w.hubAddr(), f.kubeconfig(a), "constrained")
	eventually(t, "every event in the API", func() bool {
		l, err := a.admin.CoreV1().Events(w.namespace).List(w.ctx, metav1.ListOptions{Limit: 1})
		w.must(err)
		count := len(l.Items)
		if l.RemainingItemCount != nil {
			count += int(*l.RemainingItemCount)
		}
		return count == n
	})
	r, err := w.js.Stream(w.ctx, streams.Reported("plant-a"))
	w.must(err)
	eventually(t, "the stream trimmed", func() bool {
		info, err := r.Info(w.ctx)
		w.must(err)
		return info.State.Msgs <= 3 // the node's, and the site's last
	})
}

// Reports about a site's objects that cannot be written now, because their nodes are
// not heard, take nobody's place either.
func silentSitesTakeNoPlace(t *testing.T, a *api) {
	const n = 1100 // several times what may wait
	w := newWorld(t, a, "plant-a", "plant-b")
	b := w.start("one")
	s, other := w.site("plant-a"), w.site("plant-b")
	s.register("a1")
	other.register("b1")
	b.stop()
	var pods []*corev1.Pod
	for i := range n {
		p, err := a.admin.CoreV1().Pods(w.namespace).Create(w.ctx, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("silent-", i)},
			Spec:       corev1.PodSpec{NodeName: "a1", Containers: []corev1.Container{{Name: "c", Image: "busybox"}}},
		}, metav1.CreateOptions{})
		w.must(err)
		pods = append(pods, p)
	}
	for _, p := range pods {
		data, err := json.Marshal(reported(p, corev1.PodRunning, corev1.ConditionTrue))
		w.must(err)
		m := streams.Message{Ref: w.podRef(p.Name, "a1"), Op: streams.OpPut, UID: string(p.UID), Object: data}
		w.must(s.nc.PublishMsg(m.Encode(streams.ReportedSubject("plant-a", m.Ref))))
	}
	w.must(s.nc.Flush())
	// By the time that a bridge reads them the site has been silent for too long.
	time.Sleep(streams.PresenceTimeout + time.Second)
	w.configMap("settings", "1")
	pod := w.pod("web", "b1", "settings")
	w.start("two")
	other.beat(0, "b1")
	other.report(streams.OpPut, w.podRef("web", "b1"), string(pod.UID), reported(pod, corev1.PodRunning, corev1.ConditionTrue))
	eventually(t, "another site's report written", func() bool { other.beat(0, "b1"); return w.getPod("web").Status.Phase == corev1.PodRunning })
	if p := w.getPod("silent-7"); p.Status.Phase == corev1.PodRunning {
		t.Error("a silent node was spoken for")
	}
	eventually(t, "the silent site's reports written when it is heard", func() bool {
		s.beat(0, "a1")
		return w.getPod("silent-0").Status.Phase == corev1.PodRunning && w.getPod(fmt.Sprint("silent-", n-1)).Status.Phase == corev1.PodRunning
	})
}

// What a site sends that is larger, deeper or more than anything that is meant.
func boundsWhatASiteSends(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a")
	b := w.start("one")
	s := w.site("plant-a")
	s.register("a1")
	ref := w.podRef("web", "a1")
	bomb := nats.NewMsg(streams.ReportedSubject("plant-a", ref))
	bomb.Header.Set(streams.HeaderOp, string(streams.OpPut))
	bomb.Header.Set(streams.HeaderUID, "u")
	bomb.Data = []byte(`{"metadata":{"name":"web"},"status":{"containerStatuses":[` + strings.Repeat("{},", 300_000) + `{}]}}`)
	s.send(bomb)
	parts := nats.NewMsg(streams.ReportedSubject("plant-a", w.podRef("parts", "a1")))
	parts.Header.Set(streams.HeaderOp, string(streams.OpPut))
	parts.Header.Set(streams.HeaderUID, "u")
	parts.Header.Set(streams.HeaderParts, "257")
	s.send(parts)
	deep := nats.NewMsg(streams.ReportedSubject("plant-a", w.podRef("deep", "a1")))
	deep.Header.Set(streams.HeaderOp, string(streams.OpPut))
	deep.Header.Set(streams.HeaderUID, "u")
	deep.Data = []byte(`{"metadata":{"name":"deep"},"status":` + strings.Repeat("[", 15_000) + strings.Repeat("]", 15_000) + `}`)
	s.send(deep)
	eventually(t, "three reports quarantined", func() bool { return len(w.quarantined("plant-a")) == 3 })

	refused := b.Counters().Refused
	beat := `{"site":"plant-a","nodes":[` + strings.Repeat("{},", 50_000) + `{}]}`
	w.must(s.nc.Publish(streams.PresenceSubject("plant-a"), []byte(beat)))
	w.must(s.nc.Publish(streams.PresenceSubject("plant-a"), []byte(`{"boot":"`+strings.Repeat("x", 300<<10)+`"}`)))
	eventually(t, "two heartbeats refused", func() bool { return b.Counters().Refused == refused+2 })
	var token streams.TokenAnswer
	s.request(streams.RequestToken, `{"node":"`+strings.Repeat("x", 100<<10)+`"}`, &token)
	if token.Status == nil || token.Status.Code != 429 {
		t.Errorf("a token query of 100 KiB is answered %+v", token)
	}
	_, err := a.admin.CoreV1().Pods(w.namespace).Get(w.ctx, "web", metav1.GetOptions{})
	if !apierrors.IsNotFound(err) {
		t.Errorf("pod: %v", err)
	}
	s.reportNode("a1", corev1.ConditionFalse)
	eventually(t, "what is meant is read", func() bool {
		n, err := a.admin.CoreV1().Nodes().Get(w.ctx, "a1", metav1.GetOptions{})
		w.must(err)
		return nodeCondition(n, corev1.NodeReady) == corev1.ConditionFalse
	})
}
