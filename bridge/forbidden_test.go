package bridge

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/bridge/liveness"
	"github.com/petiole-io/petiole/bridge/writeback"
	"github.com/petiole-io/petiole/streams"
)

// writing is a write-back with a real hub and an API server whose answers a test chooses.
type writing struct {
	*publishing
	*dispatcher
	clients *kube.Clients
	began   time.Time
	ahead   atomic.Int64 // offset of its clock, ns
}

func startWriting(t *testing.T, answer http.HandlerFunc) *writing {
	t.Helper()
	p := startPublishing(t)
	server := httptest.NewServer(answer)
	t.Cleanup(server.Close)
	c, err := kube.NewClients(&rest.Config{Host: server.URL, QPS: -1}, ImpersonationConstrained, p.fence.Transport)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	w := &writing{publishing: p, clients: c, began: time.Now()}
	w.assemble()
	w.populate(1)
	return w
}

// assemble creates a write-back that has not started.
func (w *writing) assemble() {
	p, log := w.publishing, zap.NewNop()
	metrics := newInstruments(p.count)
	queue := newQueue[reportKey](metrics, "writeback", time.Millisecond)
	in := newReportConsumer(p.hub, newReports(), p.publisher, liveness.NewTracker(), queue, newQueue[string](metrics, "reports", time.Millisecond), log)
	in.count, in.metrics, in.workers, in.expiry = p.count, metrics.sites, 2, time.Second
	in.onNodesAlive, in.onSiteChanged = func(string, []string) {}, func(string) {}
	in.writer = writeback.New(writeback.Config{
		Clients: w.clients, Cache: p.cache, Sites: p.publisher, Liveness: in.liveness, Deleted: writeback.NewDeletedNodes(), Log: log,
	})
	w.dispatcher = &dispatcher{
		writer: in.writer, reports: in.reports, consumer: in, log: log, count: p.count, queue: queue, outage: newOutage(log, "write back"),
		now: func() time.Time { return w.began.Add(time.Duration(w.ahead.Load())) },
	}
	in.now = w.dispatcher.now
	p.t.Cleanup(func() { queue.ShutDown(); in.sites.ShutDown() })
}

// successor returns the write-back of the next bridge.
func (w *writing) successor() *writing {
	next := &writing{publishing: w.publishing, clients: w.clients, began: w.began}
	next.assemble()
	return next
}

// start consumes and writes reports until the test ends.
func (w *writing) start() {
	ctx, done := w.publishing.t.Context(), make(chan struct{}, 2)
	go func() { w.dispatcher.run(ctx, 2); done <- struct{}{} }()
	go func() {
		if err := w.consumer.run(ctx); err != nil && ctx.Err() == nil {
			w.publishing.t.Error(err)
		}
		done <- struct{}{}
	}()
	w.publishing.t.Cleanup(func() { <-done; <-done })
}

// say reports that the pod runs, with a message.
func (w *writing) say(message string) {
	w.publishing.t.Helper()
	data, err := json.Marshal(corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", UID: "uid-web"}, Status: corev1.PodStatus{Phase: corev1.PodRunning, Message: message},
	})
	if err != nil {
		w.publishing.t.Fatal(err)
	}
	ref := streams.Ref{Node: "a1", Resource: "pods", Namespace: "default", Name: "web"}
	m := streams.Message{Ref: ref, Op: streams.OpPut, UID: "uid-web", Object: data}
	if _, err := streams.Put(w.publishing.t.Context(), w.consumer.hub.JS, streams.ReportedSubject("plant-a", ref), m); err != nil {
		w.publishing.t.Fatal(err)
	}
}

// statusError answers with an error status.
func statusError(w http.ResponseWriter, code int, reason metav1.StatusReason) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Code: int32(code), Reason: reason,
	})
}

func forbid(rw http.ResponseWriter) {
	statusError(rw, http.StatusForbidden, metav1.StatusReasonForbidden)
}

// A starting API server forbids everything for a while: no report is refused because of that,
// and waiting reports do not block others. A report that is forbidden for a long time is
// refused.
func TestForbiddenReportsWait(t *testing.T) {
	t.Parallel()
	var tries atomic.Int64
	var open atomic.Bool
	w := startWriting(t, func(rw http.ResponseWriter, _ *http.Request) {
		tries.Add(1)
		if !open.Load() {
			forbid(rw)
			return
		}
		rw.Header().Set("Content-Type", "application/json")
		_, _ = rw.Write([]byte(`{"apiVersion":"v1","kind":"Pod"}`))
	})
	w.start()
	unacknowledged := func() int {
		c, err := w.consumer.hub.Reported.Consumer(t.Context(), streams.BridgeConsumer)
		if err != nil {
			t.Fatal(err)
		}
		return c.CachedInfo().NumAckPending
	}
	w.say("first")
	w.await("tried again and again", func() bool { return tries.Load() > 5 })
	if n := unacknowledged(); n != 1 {
		t.Errorf("%d reports are not acknowledged, want the one that waits", n)
	}
	w.ahead.Store(int64(maxForbidden - 10*time.Second))
	w.await("waiting without a place", func() bool { return unacknowledged() == 0 })
	if kept, err := w.consumer.hub.Bucket.Get(t.Context(), deferredKey("plant-a")); err != nil || len(kept.Value()) == 0 {
		t.Errorf("what waits is not remembered: %v", err)
	}
	before := tries.Load()
	w.await("still tried", func() bool { return tries.Load() > before+5 })
	open.Store(true)
	w.await("written", func() bool { return w.dispatcher.count.accepted.Load() == 1 })
	w.await("forgotten", func() bool {
		_, err := w.consumer.hub.Bucket.Get(t.Context(), deferredKey("plant-a"))
		return err != nil
	})
	if n := w.dispatcher.count.quarantined.Load(); n != 0 {
		t.Fatalf("%d reports are in quarantine", n)
	}

	open.Store(false)
	w.say("second")
	before = tries.Load()
	w.await("tried anew", func() bool { return tries.Load() > before+5 })
	if n := w.dispatcher.count.quarantined.Load(); n != 0 {
		t.Fatalf("refused at once, although the patience begins anew: %d", n)
	}
	w.ahead.Add(int64(maxForbidden))
	w.await("refused in the end", func() bool { return w.dispatcher.count.quarantined.Load() == 1 })
}
