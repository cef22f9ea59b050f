package reported

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/workqueue"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/bridge/bounds"
	"github.com/petiole-io/petiole/bridge/hub"
	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/bridge/lease"
	"github.com/petiole-io/petiole/bridge/liveness"
	"github.com/petiole-io/petiole/bridge/writeback"
	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/streams"
)

// cluster is what the API server holds. A test fills it.
type cluster struct {
	mu  sync.Mutex
	all map[kube.Key]*unstructured.Unstructured
}

func (c *cluster) Get(k kube.Key) *unstructured.Unstructured {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all[k]
}

func (c *cluster) SiteExists(site string) bool { return c.Get(kube.SiteKey(site)) != nil }

func (c *cluster) SiteOf(node string) string {
	o := c.Get(kube.CoreKey("nodes", "", node))
	if o == nil {
		return ""
	}
	return o.GetLabels()[v1alpha1.SiteLabel]
}

func (*cluster) NodesOf(string) []string { return nil }

func (*cluster) BoundTo([]string) []kube.Key { return nil }

func (*cluster) Claim(context.Context, string, string, []string) error { return nil }

func (*cluster) Spec(string) *v1alpha1.SiteNodes { return nil }

// set adds or replaces an object.
func (c *cluster) set(k kube.Key, object map[string]any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := &unstructured.Unstructured{Object: object}
	o.SetName(k.Name)
	o.SetNamespace(k.Namespace)
	o.SetUID(types.UID("uid-" + k.Name))
	o.SetResourceVersion(strconv.Itoa(len(c.all) + 1))
	c.all[k] = o
}

// addSite adds a site with a node and a pod on it.
func (c *cluster) addSite(site, node, pod string) {
	c.set(kube.SiteKey(site), map[string]any{})
	c.set(kube.CoreKey("nodes", "", node), map[string]any{"metadata": map[string]any{"labels": map[string]any{v1alpha1.SiteLabel: site}}})
	c.set(kube.CoreKey("pods", "default", pod), map[string]any{"spec": map[string]any{"nodeName": node}})
}

// writing is a reconciler with a real hub and an API server whose answers a test chooses.
type writing struct {
	*Reconciler
	t       *testing.T
	cluster *cluster
	server  *natstest.Hub
	hub     *hub.Hub
	clients *kube.Clients
	count   *Counters
	began   time.Time
	ahead   atomic.Int64 // offset of its clock, ns
	limited atomic.Int64 // reports that were dropped or delayed
	// problems of the sites
	problems *bounds.Problems
}

// startWriting returns a reconciler with one site, plant-a, that has not started.
func startWriting(t *testing.T, answer http.HandlerFunc) *writing {
	t.Helper()
	server := httptest.NewServer(answer)
	t.Cleanup(server.Close)
	w := &writing{t: t, server: natstest.StartHub(t, "plant-a"), began: time.Now(), cluster: &cluster{all: map[kube.Key]*unstructured.Unstructured{}}}
	w.connect()
	var err error
	if w.clients, err = kube.NewClients(&rest.Config{Host: server.URL, QPS: -1}, kube.ImpersonationConstrained, leadingFence().Transport); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.clients.Close)
	w.addSite("plant-a", "a1", "web")
	w.assemble()
	return w
}

// connect opens the hub.
func (w *writing) connect() {
	w.t.Helper()
	h, err := hub.Open(w.t.Context(), w.server.Connect(w.t, "bridge"), streams.HubLimits{})
	if err != nil {
		w.t.Fatal(err)
	}
	w.hub = h
}

// addSite adds a site with a node, a pod on it, and its streams at the hub.
func (w *writing) addSite(site, node, pod string) {
	w.t.Helper()
	if err := streams.Ensure(w.t.Context(), w.hub.JS, streams.SiteStreams(site, streams.SiteLimits{})); err != nil {
		w.t.Fatal(err)
	}
	w.cluster.addSite(site, node, pod)
}

// stream returns the stream with the reports of a site.
func (w *writing) stream(site string) jetstream.Stream {
	w.t.Helper()
	s, err := w.hub.JS.Stream(w.t.Context(), streams.Reported(site))
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// behind returns the number of the last messages of a site that the next bridge would read as new.
func (w *writing) behind(site string) int {
	w.t.Helper()
	info := w.stream(site).CachedInfo()
	f, err := loadFloor(w.t.Context(), w.hub.Bucket, site, info.Created, info.State.LastSeq)
	if err != nil {
		w.t.Fatal(err)
	}
	return int(info.State.LastSeq - f.seq)
}

// waiting returns the number of reports of a site that wait for the API server.
func (w *writing) waiting(site string) int { return maxWaiting - w.reader.reports.room(site) }

// leadingFence returns the fence of a leading bridge.
func leadingFence() *lease.Fence {
	f := lease.NewFence(time.Now)
	f.Renewed(time.Now(), time.Hour)
	f.SetTerm(1)
	return f
}

// assemble creates a reconciler that has not started.
func (w *writing) assemble() {
	tracker := liveness.NewTracker()
	w.count = &Counters{}
	w.problems = bounds.NewProblems(time.Now)
	w.Reconciler = New(Config{
		Hub: w.hub, Sites: w.cluster, Liveness: tracker, Fence: leadingFence(), Counters: w.count, Log: zap.NewNop(), Workers: workers,
		Writer: writeback.New(writeback.Config{
			Clients: w.clients, Cache: w.cluster, Sites: w.cluster, Names: w.cluster, Problems: w.problems, Liveness: tracker, Deleted: writeback.NewDeletedNodes(), Log: zap.NewNop(),
		}),
		Limits: Limits{
			Writes: bounds.NewWriteRate(time.Now), Events: bounds.NewEventRate(time.Now), Problems: w.problems, OnLimited: func(string, string) { w.limited.Add(1) },
		},
		Queue: quick(NewQueue(workqueue.TypedQueueConfig[Key]{}, workers)), SiteQueue: quick(workqueue.NewTyped[string]()),
		Report: func(error) {}, OnQuarantined: func(string, string) {}, OnSiteConnected: func(string) {},
		now: func() time.Time { return w.began.Add(time.Duration(w.ahead.Load())) },
	})
	w.t.Cleanup(w.Close)
}

// workers is the number of workers that read, and of those that write.
const workers = 2

// quick has a queue retry often.
func quick[T comparable](q workqueue.TypedInterface[T]) workqueue.TypedRateLimitingInterface[T] {
	retries := workqueue.NewTypedItemExponentialFailureRateLimiter[T](100*time.Millisecond, time.Millisecond)
	return workqueue.NewTypedRateLimitingQueueWithConfig(retries, workqueue.TypedRateLimitingQueueConfig[T]{
		DelayingQueue: workqueue.NewTypedDelayingQueueWithConfig(workqueue.TypedDelayingQueueConfig[T]{Queue: q}),
	})
}

// successor returns the reconciler of the next bridge.
func (w *writing) successor() *writing {
	next := &writing{t: w.t, cluster: w.cluster, server: w.server, hub: w.hub, clients: w.clients, began: w.began}
	next.assemble()
	return next
}

// start reads and writes reports until stop is called, or the test ends.
func (w *writing) start() (stop func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := w.Run(ctx); err != nil && ctx.Err() == nil {
			w.t.Error(err)
		}
	}()
	stop = func() { cancel(); <-done }
	w.t.Cleanup(stop)
	return stop
}

// await waits for a condition.
func (w *writing) await(what string, cond func() bool) {
	w.t.Helper()
	polltest.Eventually(w.t, what, cond)
}

// say reports that the pod runs, with a message.
func (w *writing) say(message string) { w.sayOf("web", message) }

// sayOf reports that a pod of node a1 runs, with a message.
func (w *writing) sayOf(pod, message string) {
	w.t.Helper()
	w.report(streams.Message{Ref: podOf(pod), Op: streams.OpPut, UID: "uid-" + pod}, corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: pod, Namespace: "default", UID: types.UID("uid-" + pod)}, Status: corev1.PodStatus{Phase: corev1.PodRunning, Message: message},
	})
}

func podOf(name string) streams.Ref {
	return streams.Ref{Node: "a1", Resource: "pods", Namespace: "default", Name: name}
}

// report stores a report of plant-a about an object, nil for none.
func (w *writing) report(m streams.Message, object any) {
	w.t.Helper()
	if object != nil {
		data, err := json.Marshal(object)
		if err != nil {
			w.t.Fatal(err)
		}
		m.Object = data
	}
	if _, err := streams.Put(w.t.Context(), w.hub.JS, streams.ReportedSubject("plant-a", m.Ref), m); err != nil {
		w.t.Fatal(err)
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

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
