package leaf

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/petiole-io/petiole/internal/metrics/metricstest"
	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/internal/porttest"
	"github.com/petiole-io/petiole/streams"
)

// whole is a complete leaf, as cmd/leaf runs it, without a kubelet.
type whole struct {
	*site
	stop  func()
	ended chan error

	mu    sync.Mutex
	beats []streams.Presence
}

func startWhole(t testing.TB, ctx context.Context, s *site) *whole {
	t.Helper()
	w := &whole{site: s, ended: make(chan error, 1)}
	s.cfg.NodeAPI.Listen, s.cfg.Metrics.Listen = porttest.Addr(t), porttest.Addr(t)
	sub, err := s.bridge.Subscribe(streams.PresenceFilter, func(m *nats.Msg) {
		var p streams.Presence
		if err := json.Unmarshal(m.Data, &p); err != nil {
			t.Errorf("heartbeat %q: %v", m.Data, err)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.beats = append(w.beats, p)
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	go func() { w.ended <- New(s.cfg, "v1", zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel))).Run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-w.ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		if err := sub.Unsubscribe(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(w.stop)
	return w
}

func (w *whole) get(t testing.TB, path string) (int, string) {
	t.Helper()
	resp, err := http.Get("http://" + w.cfg.Metrics.Listen + path)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func (w *whole) alive(t *testing.T) {
	t.Helper()
	select {
	case err := <-w.ended:
		w.ended <- err
		t.Fatalf("the leaf has ended: %v", err)
	default:
	}
}

func (w *whole) beat(f func(streams.Presence) bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.beats, f)
}

// TestLeafSaysHowItIs reads the metrics, the health and the heartbeat of a whole leaf.
func TestLeafSaysHowItIs(t *testing.T) {
	t.Parallel()
	s, ctx := newSite(t)
	respond(t, s)
	for i := range 7 {
		putDesired(t, ctx, s, fmt.Sprintf("cm-%d", i), i)
	}
	w := startWhole(t, ctx, s)
	polltest.Eventually(t, "ready", func() bool { code, _ := w.get(t, "/readyz"); return code == http.StatusOK })
	if code, body := w.get(t, "/healthz"); code != http.StatusOK {
		t.Errorf("/healthz: %d %s", code, body)
	}
	var body string
	polltest.Eventually(t, "metrics", func() bool {
		_, body = w.get(t, "/metrics")
		return strings.Contains(body, "petiole_leaf_applied_sequence 7\n") && strings.Contains(body, "petiole_leaf_link_up 1\n") &&
			strings.Contains(body, "petiole_leaf_unapplied_messages 0\n")
	})
	for _, want := range []string{
		"petiole_leaf_replicated_total", `petiole_leaf_pending_messages{stream="SITE_TELEMETRY"} 0`,
		`petiole_leaf_store_degraded{reason="DiskFull"} 0`, "petiole_leaf_disk_free_bytes", "process_resident_memory_bytes",
		"petiole_leaf_link_changes_total 1",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("/metrics has no %s", want)
		}
	}
	p := expfmt.NewTextParser(model.UTF8Validation)
	families, err := p.TextToMetricFamilies(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	metricstest.CompareTypes(t, metricstest.Documented(t, "../docs/operations.md", leafPrefix), leafPrefix, slices.Collect(maps.Values(families)))
	metricstest.Keep(t, "leaf", body)
	// The next heartbeat is sent when the link comes up the next time.
	s.line.Cut()
	polltest.Eventually(t, "link down", func() bool { _, body := w.get(t, "/metrics"); return strings.Contains(body, "petiole_leaf_link_up 0") })
	s.line.Heal()
	polltest.Eventually(t, "heartbeat", func() bool {
		return w.beat(func(p streams.Presence) bool {
			return p.AppliedHub == 7 && p.Unapplied == 0 && p.Boot != "" && len(p.Degraded) == 0
		})
	})
}

// TestLeafOutlivesAFullDisk runs a whole leaf, devices and node API included, on a disk
// that somebody fills: it says so, its process goes on, and it recovers.
func TestLeafOutlivesAFullDisk(t *testing.T) {
	t.Parallel()
	v := newVolume(t, "tmpfs", 64)
	s, ctx := newSite(t)
	s.cfg.NATS.ConfigFile = natstest.LeafConfIn(t, v.dir, "plant-a", s.line.Addr())
	s.cfg.DataDir = filepath.Join(v.dir, "data")
	respond(t, s)
	putDesired(t, ctx, s, "before", 1)
	w := startWhole(t, ctx, s)
	polltest.Eventually(t, "ready", func() bool { code, _ := w.get(t, "/readyz"); return code == http.StatusOK })
	polltest.Eventually(t, "object", func() bool { return backlog(t, ctx, s) == 0 })
	empty := v.fill()
	putDesired(t, ctx, s, "meanwhile", strings.Repeat("x", 2<<20)) // more than the leaf gives up to make room
	polltest.Eventually(t, "unhealthy", func() bool { code, _ := w.get(t, "/healthz"); return code == http.StatusServiceUnavailable })
	s.line.Cut()
	polltest.Eventually(t, "link down", func() bool { _, body := w.get(t, "/metrics"); return strings.Contains(body, "petiole_leaf_link_up 0") })
	s.line.Heal()
	polltest.Eventually(t, "heartbeat says so", func() bool {
		return w.beat(func(p streams.Presence) bool { return slices.Contains(p.Degraded, streams.DegradedDiskFull) })
	})
	w.alive(t)
	empty()
	polltest.Eventually(t, "healthy", func() bool { code, _ := w.get(t, "/healthz"); return code == http.StatusOK })
	polltest.Eventually(t, "object", func() bool { return backlog(t, ctx, s) == 0 })
	messages := count(t, ctx, s.hub, streams.Desired) // the second object is in parts
	polltest.Eventually(t, "applied", func() bool {
		_, body := w.get(t, "/metrics")
		return strings.Contains(body, fmt.Sprintf("petiole_leaf_applied_sequence %d\n", messages))
	})
	w.alive(t)
}

// TestLeafStartsAgainOnADamagedStore flips a byte under a leaf that runs: the comparison
// finds it, all parts start again on a store that is created again, in one process.
func TestLeafStartsAgainOnADamagedStore(t *testing.T) {
	t.Parallel()
	s, ctx := newSite(t)
	respond(t, s)
	for i := range 40 {
		putDesired(t, ctx, s, fmt.Sprintf("cm-%d", i), i)
	}
	w := startWhole(t, ctx, s)
	applied := func() bool {
		_, body := w.get(t, "/metrics")
		return strings.Contains(body, "petiole_leaf_applied_sequence 40")
	}
	polltest.Eventually(t, "applied", applied)
	w.stop()
	block := filepath.Join(filepath.Dir(s.cfg.NATS.ConfigFile), "js", "jetstream", "$G", "streams", streams.SiteDesired, "msgs", "1.blk")
	b, err := os.ReadFile(block)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-60] ^= 1
	if err := os.WriteFile(block, b, 0o600); err != nil {
		t.Fatal(err)
	}
	w = startWhole(t, ctx, s)
	polltest.Eventually(t, "applied", applied)
	_, body := w.get(t, "/metrics")
	for _, want := range []string{`petiole_leaf_streams_rebuilt_total{stream="SITE_DESIRED"} 1`, `petiole_leaf_store_degraded{reason="StoreRebuilt"} 1`} {
		if !strings.Contains(body, want) {
			t.Errorf("/metrics has no %s", want)
		}
	}
	polltest.Eventually(t, "same", func() bool { return backlog(t, ctx, s) == 0 })
}
