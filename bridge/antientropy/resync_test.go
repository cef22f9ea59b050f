package antientropy

import (
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/bridge/hub"
	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/bridge/lease"
	"github.com/petiole-io/petiole/bridge/liveness"
	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/streams"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// plantA is the only Site that exists. Nothing is being published for it.
type plantA struct{ annotation string }

func (p *plantA) Get(k kube.Key) *unstructured.Unstructured {
	if k != (kube.Key{Group: kube.SiteGroup, Resource: "sites", Name: "plant-a"}) {
		return nil
	}
	o := &unstructured.Unstructured{Object: map[string]any{}}
	o.SetAnnotations(map[string]string{v1alpha1.ResyncAnnotation: p.annotation})
	return o
}

func (*plantA) SiteExists(site string) bool { return site == "plant-a" }

func (*plantA) SiteIdle(string) bool { return true }

func openHub(t *testing.T) *hub.Hub {
	t.Helper()
	h, err := hub.Open(t.Context(), natstest.StartHub(t, "plant-a").Connect(t, "bridge"), streams.HubLimits{})
	if err != nil {
		t.Fatal(err)
	}
	if err := streams.EnsureConsumer(t.Context(), h.JS, streams.Desired, streams.SiteConsumer("plant-a")); err != nil {
		t.Fatal(err)
	}
	return h
}

// A bridge that has just started asks a site that it does not know yet to be connected as soon as
// it is. A site without a Site object is not asked at all.
func TestComparisonWaitsForTheConnection(t *testing.T) {
	t.Parallel()
	h, site, tracker := openHub(t), &plantA{}, liveness.NewTracker()
	asked, err := h.Conn.SubscribeSync("sync.*")
	if err != nil {
		t.Fatal(err)
	}
	r := NewResyncer(Config{
		Hub: h, Cache: site, Sites: site, Liveness: tracker, Log: zap.NewNop(),
		States: NewStates(Hooks{Changed: func() {}, Resynced: func(string) {}}), Report: func(err error) {
			if err != nil {
				t.Error(err)
			}
		},
	})
	connect := func(site string) {
		tracker.Heartbeat(site, streams.Presence{Site: site, Nodes: []streams.NodePresence{{Name: site + "-1"}}}, time.Now())
	}
	r.CompareWhenCaughtUp("plant-a")
	r.CompareWhenCaughtUp("no-site")
	connect("no-site")
	r.round(t.Context())
	connect("plant-a")
	r.round(t.Context())
	r.round(t.Context()) // it is asked once
	if err := h.Conn.Flush(); err != nil {
		t.Fatal(err)
	}
	if n, _, err := asked.Pending(); err != nil || n != 1 {
		t.Fatalf("%d requests, %v, want 1", n, err)
	}
	m, err := asked.NextMsg(time.Second)
	if err != nil || m.Subject != streams.SyncSubject("plant-a") || m.Header.Get(streams.HeaderControl) != streams.ControlVerify {
		t.Errorf("got %v, %v", m, err)
	}
}

// The value of the annotation is repeated in the status, which bounds its length.
func TestLongResyncIsRefused(t *testing.T) {
	t.Parallel()
	h := openHub(t)
	fence := lease.NewFence(time.Now)
	fence.Renewed(time.Now(), time.Hour)
	core, logged := observer.New(zapcore.WarnLevel)
	resyncs := 0
	site := &plantA{}
	r := NewResyncer(Config{
		Hub: h, Cache: site, Sites: site, Liveness: liveness.NewTracker(), Fence: fence, Log: zap.New(core),
		States: NewStates(Hooks{Changed: func() {}, Resynced: func(string) { resyncs++ }}),
	})
	ask := func(value string) string {
		t.Helper()
		site.annotation = value
		if err := r.resyncRequested(t.Context(), "plant-a"); err != nil {
			t.Fatal(err)
		}
		return r.cfg.States.Get("plant-a").ResyncRequested
	}
	long := strings.Repeat("x", MaxResyncValue+1)
	if got := ask(long); got != "" {
		t.Errorf("a value of %d bytes was carried out", len(got))
	}
	if ask(long); logged.Len() != 1 {
		t.Errorf("logged %d times", logged.Len())
	}
	if got := ask(long[1:]); got != long[1:] || resyncs != 1 {
		t.Errorf("a value of %d bytes was not carried out", MaxResyncValue)
	}
}
