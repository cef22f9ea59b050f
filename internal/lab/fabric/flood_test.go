package fabric

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/internal/bench/hub"
	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/internal/siege"
	"github.com/petiole-io/petiole/streams"
)

const (
	// floodTime is how long each flood lasts; `go tool task bench:hub` has longer ones with a
	// hundred sites.
	floodTime = 3 * time.Second
	// floodPatience is how long another's publish may take at most.
	floodPatience = 30 * time.Second
)

// TestAFloodOfOneSiteHarmsNobody has sites do their worst to their streams, one after the
// other, at a stock hub with the deployed configuration. Meanwhile everything that the others
// publish is stored, and DESIRED is writable. What a site stores stays within its bounds.
func TestAFloodOfOneSiteHarmsNobody(t *testing.T) {
	floods := []struct {
		name, site string
		// subject returns the beginning of the subjects that the flood uses.
		subject func(site string) string
		// batches has the others publish in batches; full expects that the flood reaches a bound.
		batches, full bool
		run           func(context.Context, *nats.Conn, string) (string, error)
	}{
		{"telemetry without waiting", "flood-a", telemetry, false, false, hub.Flood(100, 1000)},
		{"telemetry of 100 kB until it is full", "flood-b", telemetry, false, true, hub.Flood(100_000, 1000)},
		{"50 open batches of telemetry", "flood-c", telemetry, true, false, hub.OpenBatches},
		{"300,000 subjects of telemetry", "flood-d", telemetry, false, true, manySubjects},
		{"reports without waiting", "flood-e", reported, false, false, hub.Flood(100, 1000)},
		{"reports of 100 kB until it is full", "flood-f", reported, false, true, hub.Flood(100_000, 1000)},
		{"50 open batches of reports", "flood-g", reported, true, false, hub.OpenBatches},
	}
	quiet := []string{"plant-b", "plant-c", "plant-d"}
	sites := slices.Clone(quiet)
	for _, f := range floods {
		sites = append(sites, f.site)
	}
	h := prepareWorld(t, sites...).startHub(t)
	js := h.hubJetStream(t, t.Context())
	limits := streams.SiteLimits{Bytes: streams.MinSiteBytes}
	for _, f := range floods {
		must(t, streams.Ensure(t.Context(), js, streams.SiteStreams(f.site, limits)))
		t.Run(f.name, func(t *testing.T) {
			w := &witness{h: h, batches: f.batches}
			w.observe(t, js, quiet, func() {
				ctx, cancel := context.WithTimeout(t.Context(), siege.Time(t, floodTime))
				defer cancel()
				note, err := f.run(ctx, h.connect(t, f.site+"-operator"), f.subject(f.site))
				if err != nil {
					t.Error(err)
				}
				t.Log(note)
				if f.full {
					polltest.Eventually(t, "the flood reaches a bound", func() bool {
						used, err := streams.SiteUsage(t.Context(), js)
						return err == nil && used[f.site].Fullest > 0.95
					})
				}
			})
			within(t, h, js, f.site, limits)
		})
	}
	t.Run("50 open batches of all of them", func(t *testing.T) {
		w := &witness{h: h, batches: true}
		w.observe(t, js, quiet, func() {
			ctx, cancel := context.WithTimeout(t.Context(), siege.Time(t, floodTime))
			defer cancel()
			var g sync.WaitGroup
			for _, f := range floods {
				for _, subject := range []string{telemetry(f.site), reported(f.site)} {
					nc := h.connect(t, f.site+"-operator")
					g.Go(func() {
						if _, err := hub.OpenBatches(ctx, nc, subject); err != nil {
							t.Error(err)
						}
					})
				}
			}
			g.Wait()
		})
	})
}

// TestResetsOfOneSiteHarmNobody has a site ask for everything again and again, with several
// connections, and take it as fast as it can. What others publish meanwhile is stored, and DESIRED
// is writable.
func TestResetsOfOneSiteHarmNobody(t *testing.T) {
	const objects, connections = 1000, 4
	h := prepareWorld(t, "plant-a", "plant-b", "plant-c").startHub(t)
	js := h.hubJetStream(t, t.Context())
	for _, site := range []string{"plant-b", "plant-c"} {
		must(t, streams.Ensure(t.Context(), js, streams.SiteStreams(site, streams.SiteLimits{Bytes: streams.MinSiteBytes})))
	}
	object := fmt.Appendf(nil, `{"data":{"v":%q}}`, strings.Repeat("x", 2000))
	for n := range objects {
		ref := streams.Ref{Resource: "configmaps", Namespace: "default", Name: fmt.Sprint("c-", n)}
		_, err := js.PublishMsgAsync(streams.Message{Ref: ref, Op: streams.OpPut, UID: "u", Object: object}.Encode(streams.DesiredSubject("plant-a", ref)))
		must(t, err)
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-time.After(floodPatience):
		t.Fatal("the objects of plant-a are not stored")
	}
	must(t, streams.EnsureConsumer(t.Context(), js, streams.Desired, streams.SiteConsumer("plant-a")))
	w := &witness{h: h}
	w.observe(t, js, []string{"plant-b", "plant-c"}, func() {
		ctx, cancel := context.WithTimeout(t.Context(), siege.Time(t, floodTime))
		defer cancel()
		var resets, messages, bytes atomic.Int64
		var g sync.WaitGroup
		for range connections {
			nc := h.connect(t, "plant-a-operator")
			inbox := nc.NewInbox()
			sub, err := nc.Subscribe(inbox, func(m *nats.Msg) {
				messages.Add(1)
				bytes.Add(int64(len(m.Data)))
			})
			must(t, err)
			must(t, sub.SetPendingLimits(-1, -1))
			g.Go(func() {
				for ctx.Err() == nil {
					if m, err := nc.RequestWithContext(ctx, streams.ResetSubject("plant-a"), []byte(`{"seq":1}`)); err == nil && !strings.Contains(string(m.Data), `"error"`) {
						resets.Add(1)
					}
					must(t, nc.PublishRequest(streams.PullSubject("plant-a"), inbox, fmt.Appendf(nil, `{"batch":%d,"expires":1000000000}`, objects)))
				}
			})
		}
		g.Wait()
		t.Logf("%d resets, %d messages and %d MB delivered", resets.Load(), messages.Load(), bytes.Load()>>20)
		if resets.Load() < 10 || messages.Load() < objects {
			t.Errorf("the site has reset its consumer %d times and got %d messages", resets.Load(), messages.Load())
		}
	})
}

// TestBridgesLargestObjectsFit has two bridges, one that ends and its successor, publish the
// largest objects that there are with all of their workers: the bounds of the hub's configuration
// refuse none.
func TestBridgesLargestObjectsFit(t *testing.T) {
	const workers, bytes = 2 * 8, 3 << 19
	h := prepareWorld(t, "plant-b").startHub(t)
	js := h.hubJetStream(t, t.Context())
	var g sync.WaitGroup
	for n := range workers {
		g.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), floodPatience)
			defer cancel()
			ref := streams.Ref{Resource: "configmaps", Namespace: "default", Name: fmt.Sprint("large-", n)}
			object := fmt.Appendf(nil, `{"data":{"v":%q}}`, strings.Repeat("x", bytes))
			if _, err := streams.Put(ctx, js, streams.DesiredSubject("plant-b", ref), streams.Message{Ref: ref, Op: streams.OpPut, UID: "u", Object: object}); err != nil {
				t.Error(err)
			}
		})
	}
	g.Wait()
}

func telemetry(site string) string { return streams.TelemetrySubject(site, "x") + "." }

func reported(site string) string {
	return streams.ReportedSubject(site, streams.Ref{Node: "n", Resource: "pods", Namespace: "default", Name: "x"}) + "."
}

// manySubjects stores 300,000 small messages, each on a subject of its own, in atomic batches:
// one by one, the disk would take minutes.
func manySubjects(_ context.Context, nc *nats.Conn, subject string) (string, error) {
	const subjects = 300_000
	for n := 0; n < subjects; {
		batch := make([]*nats.Msg, streams.MaxBatch)
		for i := range batch {
			batch[i] = nats.NewMsg(subject + strconv.Itoa(n))
			n++
		}
		ctx, cancel := context.WithTimeout(context.Background(), floodPatience)
		_, err := streams.Commit(ctx, nc, batch)
		cancel()
		if err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d stored", subjects), nil
}

// witness publishes as the other sites do, and to DESIRED as the bridge does.
type witness struct {
	h       *hubProcess
	batches bool

	mu     sync.Mutex
	took   []time.Duration
	failed []error
}

func (w *witness) note(took time.Duration, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.took = append(w.took, took); err != nil {
		w.failed = append(w.failed, err)
	}
}

// observe runs a flood, and fails the test if anything that others publish meanwhile is not stored.
func (w *witness) observe(t *testing.T, js jetstream.JetStream, sites []string, flood func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var g sync.WaitGroup
	for _, site := range sites {
		nc := w.h.connect(t, site+"-operator")
		g.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				w.note(hub.Publish(nc, streams.TelemetrySubject(site, "sample", strconv.FormatInt(time.Now().UnixNano(), 10))+".", n, w.batches, floodPatience))
				time.Sleep(50 * time.Millisecond)
			}
		})
	}
	g.Go(func() {
		ref := streams.Ref{Resource: "configmaps", Namespace: "default", Name: "web"}
		for n := 0; ctx.Err() == nil; n++ {
			began := time.Now()
			waiting, done := context.WithTimeout(t.Context(), floodPatience)
			// Large enough for parts, and so a batch, if the others publish batches.
			object := fmt.Appendf(nil, `{"n":%d}`, n)
			if w.batches {
				object = fmt.Appendf(nil, `{"n":%q}`, strings.Repeat("x", 2*streams.PartBytes))
			}
			_, err := streams.Put(waiting, js, streams.DesiredSubject(sites[0], ref), streams.Message{Ref: ref, Op: streams.OpPut, UID: "u", Object: object})
			done()
			w.note(time.Since(began), err)
			time.Sleep(50 * time.Millisecond)
		}
	})
	flood()
	cancel()
	g.Wait()
	t.Logf("%d publishes of others, p50 %v, p99 %v", len(w.took), hub.Quantile(w.took, .5), hub.Quantile(w.took, .99))
	siege.CheckStored(t, hub.Quantile(w.took, .99))
	if len(w.failed) > 0 || len(w.took) < len(sites)+1 {
		t.Errorf("%d of %d publishes of others were not stored: %v", len(w.failed), len(w.took), errors.Join(w.failed...))
	}
}

// within checks that a site's stream keeps to its bounds, and its files to what they allow.
func within(t *testing.T, h *hubProcess, js jetstream.JetStream, site string, limits streams.SiteLimits) {
	t.Helper()
	for _, cfg := range streams.SiteStreams(site, limits) {
		s, err := js.Stream(t.Context(), cfg.Name)
		must(t, err)
		state := s.CachedInfo().State
		var disk int64
		dir := filepath.Join(h.hub.Store, "jetstream", "FABRIC", "streams", cfg.Name)
		must(t, filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return ignoreMissing(err)
			}
			info, err := d.Info()
			if err == nil {
				disk += info.Size()
			}
			return ignoreMissing(err)
		}))
		t.Logf("%s: %d messages, %d MB stored, %d MB on disk of %d MB", cfg.Name, state.Msgs, state.Bytes>>20, disk>>20, cfg.MaxBytes>>20)
		if int64(state.Bytes) > cfg.MaxBytes || int64(state.Msgs) > cfg.MaxMsgs {
			t.Errorf("%s has %d bytes in %d messages, more than %d and %d", cfg.Name, state.Bytes, state.Msgs, cfg.MaxBytes, cfg.MaxMsgs)
		}
		if disk > 2*cfg.MaxBytes {
			t.Errorf("%s has %d bytes on disk, its bound is %d", cfg.Name, disk, cfg.MaxBytes)
		}
	}
}

// ignoreMissing ignores that a file was removed while the folder was read.
func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
