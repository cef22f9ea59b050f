package site

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"

	"github.com/petiole-io/petiole/bridge/accounts"
	"github.com/petiole-io/petiole/bridge/antientropy"
	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/bridge/bounds"
	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/bridge/liveness"
	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/inventory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// oneSite is a hub and a cache with at most one Site, plant-a, which has no object in the API.
type oneSite struct{ exists bool }

func (s *oneSite) Reconcile(context.Context) (map[string]*jetstream.ConsumerInfo, time.Duration, error) {
	found := map[string]*jetstream.ConsumerInfo{}
	if s.exists {
		found["plant-a"] = &jetstream.ConsumerInfo{}
	}
	return found, 0, nil
}

func (*oneSite) StorageProblem(string) error { return nil }

func (*oneSite) StorageUsed(string) float64 { return 0 }
func (*oneSite) TellWaiting(string) error   { return nil }

func (*oneSite) Get(kube.Key) *unstructured.Unstructured { return nil }

func (s *oneSite) SiteExists(string) bool { return s.exists }

func (*oneSite) SiteIdle(string) bool { return true }

func (*oneSite) NodesOf(string) []string { return nil }

func (*oneSite) BoundTo([]string) []kube.Key { return nil }

// A round forgets the sites that no longer exist.
func TestDeletedSitesAreForgotten(t *testing.T) {
	t.Parallel()
	clients, err := kube.NewClients(&rest.Config{Host: "127.0.0.1:1", QPS: -1}, kube.ImpersonationConstrained, leadingFence().Transport)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(clients.Close)
	s := &oneSite{exists: true}
	c := New(Config{
		Clients: clients, Cache: s, Sites: s, Consumers: s, Liveness: liveness.NewTracker(), Duplicates: liveness.NewDuplicateDetector(),
		States:  antientropy.NewStates(antientropy.Hooks{Changed: func() {}, Checked: func(inventory.State) {}}),
		Metrics: NewMetrics(), Log: zap.NewNop(), Bounds: Bounds{
			Problems: bounds.NewProblems(time.Now), Traffic: NewTraffic(TrafficConfig{SiteExists: s.SiteExists}), Retain: func(func(string) bool) {}, Access: func(string) (accounts.State, bool) { return accounts.State{}, false },
			Selected: func(string, v1alpha1.SiteSpec) (metav1.Condition, bool) { return metav1.Condition{}, false },
		},
	})
	c.cfg.Liveness.Heartbeat("plant-a", streams.Presence{}, noon)
	c.cfg.States.Checked("plant-a", noon, inventory.Equal)
	c.cfg.Metrics.CountQuarantined("plant-a", "refused")
	c.written["plant-a"] = siteWrite{at: noon}
	remembered := func() []bool {
		connected, _, _ := c.cfg.Liveness.State("plant-a")
		return []bool{connected, !c.cfg.States.Get("plant-a").LastCheck.IsZero(), len(c.cfg.Metrics.quarantined) > 0, len(c.written) > 0}
	}
	for _, exists := range []bool{true, false} {
		s.exists = exists
		if _, err := c.round(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := remembered(); slices.Contains(got, !exists) {
			t.Errorf("a Site that exists (%v) is remembered: %v", exists, got)
		}
	}
}
