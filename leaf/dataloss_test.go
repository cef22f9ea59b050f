package leaf

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/leaf/field"
	"github.com/petiole-io/petiole/leaf/natsd"
	"github.com/petiole-io/petiole/leaf/transfer"
	"github.com/petiole-io/petiole/streams"
)

// still starts the leaf's server and a supervisor, and nothing that runs.
func (s *site) open(t *testing.T, ctx context.Context) {
	t.Helper()
	log := zaptest.NewLogger(t, zaptest.Level(zap.InfoLevel))
	var err error
	if s.host, err = natsd.Start(ctx, "plant-a", s.cfg.NATS.ConfigFile, log.WithOptions(zap.IncreaseLevel(zap.WarnLevel))); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.host.Stop)
	if s.nc, err = s.host.Connect(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.nc.Close)
	if s.js, err = jetstream.New(s.nc); err != nil {
		t.Fatal(err)
	}
	s.store = newStoreSupervisor(New(s.cfg, "test", log), s.host, s.js)
}

// restartServer restarts the server and returns when the leaf's connection is to the new one: a
// request that the old one has taken over gets no answer.
func (s *site) restartServer(t *testing.T, ctx context.Context, between func() error) {
	t.Helper()
	s.store.restart(ctx, between)
	polltest.Eventually(t, "connection to the new server", func() bool { _, err := s.nc.RTT(); return err == nil })
}

// TestStoreRolledBackWhileTheLeafRuns restarts the server on an older copy of the store,
// as a stalled one may be: what is stored at the same sequences afterwards arrives.
func TestStoreRolledBackWhileTheLeafRuns(t *testing.T) {
	t.Parallel()
	const before, between, after = 20, 30, 40
	s, ctx := newSite(t)
	s.unsupervised = true
	respond(t, s)
	s.start(t, ctx)
	for i := range before {
		s.say(t, ctx, "pump", i)
	}
	s.acknowledged(t, ctx, before)
	copied := filepath.Join(t.TempDir(), "js")
	store := s.host.StoreDir()
	s.restartServer(t, ctx, func() error { return os.CopyFS(copied, os.DirFS(store)) })
	for i := range between {
		s.say(t, ctx, "pump", before+i)
	}
	s.acknowledged(t, ctx, before+between)
	s.restartServer(t, ctx, func() error {
		return errors.Join(os.RemoveAll(store), os.CopyFS(store, os.DirFS(copied)))
	})
	for i := range after {
		s.say(t, ctx, "pump", before+between+i)
	}
	const all = before + between + after
	polltest.Eventually(t, "all records", func() bool { return s.arrived(t, ctx, all-1) })
	if got := heard(t, ctx, s, "pump"); len(got) != all {
		t.Errorf("%d records at the hub, want %d", len(got), all)
	}
	if n := s.store.drops.Total(); n != 0 {
		t.Errorf("%d records are counted as dropped, the hub has them all", n)
	}
}

// TestRestartRecoversStreams restarts the server of a running leaf whose telemetry it does not
// recover, while the link is cut: what was waiting and what comes afterwards arrives.
func TestRestartRecoversStreams(t *testing.T) {
	t.Parallel()
	const before, after = 20, 20
	s, ctx := newSite(t)
	s.unsupervised = true
	respond(t, s)
	s.start(t, ctx)
	s.cut(t)
	for i := range before {
		s.say(t, ctx, "pump", i)
	}
	dir := filepath.Join(s.host.StoreDir(), "$G", "streams", streams.SiteTelemetry)
	s.restartServer(t, ctx, func() error { return os.Remove(filepath.Join(dir, "meta.inf")) })
	for i := range after {
		s.say(t, ctx, "pump", before+i)
	}
	s.line.Heal()
	polltest.Eventually(t, "all records", func() bool { return s.arrived(t, ctx, before+after-1) })
	if got := heard(t, ctx, s, "pump"); len(got) != before+after {
		t.Errorf("%d records at the hub, want %d", len(got), before+after)
	}
}

// TestLossIsReportedLater finds records lost while the stream takes no report: they are
// counted once, also after a restart, and reported when it does again.
func TestLossIsReportedLater(t *testing.T) {
	t.Parallel()
	s, ctx := newSite(t)
	s.open(t, ctx)
	if err := s.store.open(ctx); err != nil {
		t.Fatal(err)
	}
	s.say(t, ctx, "pump", 0)
	s.store.checkpointUpstream(ctx)
	had, _ := s.store.checkpoints.Get(streams.SiteTelemetry)
	had.Last = 4
	if err := s.store.checkpoints.Put(streams.SiteTelemetry, had); err != nil {
		t.Fatal(err)
	}
	largest := func(n int32) {
		stream, err := s.js.Stream(ctx, streams.SiteTelemetry)
		if err != nil {
			t.Fatal(err)
		}
		cfg := stream.CachedInfo().Config
		cfg.MaxMsgSize = n
		if _, err := s.js.UpdateStream(ctx, cfg); err != nil {
			t.Fatal(err)
		}
	}
	largest(refusedSize)
	for range 2 {
		s.store.checkpointUpstream(ctx)
	}
	if n := count(t, ctx, s.js, streams.SiteTelemetry); n != 1 {
		t.Fatalf("%d records, the report was to be refused", n)
	}
	if n := s.store.drops.Total(); n != 3 {
		t.Errorf("%d records are counted as lost, want 3", n)
	}
	s.nc.Close()
	s.host.Stop()
	s.open(t, ctx)
	s.store.checkpointUpstream(ctx)
	largest(-1)
	for range 2 {
		s.store.checkpointUpstream(ctx)
	}
	stream, err := s.js.Stream(ctx, streams.SiteTelemetry)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.GetLastMsgForSubject(ctx, streams.LocalTelemetrySubject(streams.GapKind, streams.SiteTelemetry)); err != nil {
		t.Errorf("report: %v", err)
	}
	if n := count(t, ctx, s.js, streams.SiteTelemetry); n != 2 {
		t.Errorf("%d records, want one and a report", n)
	}
	if n := s.store.drops.Total(); n != 3 {
		t.Errorf("%d records are counted as lost, want 3", n)
	}
}

// TestServerThatDoesNotStartAgain damages a store, so that the server has to be
// restarted, and takes the configuration away: the leaf says so and does not wait.
func TestServerThatDoesNotStartAgain(t *testing.T) {
	t.Parallel()
	for _, stream := range []string{streams.SiteTelemetry, streams.SiteDesired} {
		t.Run(stream, func(t *testing.T) {
			t.Parallel()
			s, ctx := newSite(t)
			s.start(t, ctx)
			putDesired(t, ctx, s, "cm", 1)
			polltest.Eventually(t, "object", func() bool { return backlog(t, ctx, s) == 0 && same(t, ctx, s) })
			s.record(t, ctx, 1, 10)
			store := s.host.StoreDir()
			s.stop()
			dir := filepath.Join(store, "$G", "streams", stream)
			if stream == streams.SiteTelemetry {
				if err := os.Remove(filepath.Join(dir, "meta.sum")); err != nil {
					t.Fatal(err)
				}
			} else {
				edit(t, filepath.Join(dir, "msgs", "1.blk"), func(b []byte) []byte { b[len(b)-40] ^= 1; return b })
			}
			s.open(t, ctx)
			if err := os.Remove(s.cfg.NATS.ConfigFile); err != nil {
				t.Fatal(err)
			}
			opening, cancel := context.WithTimeout(ctx, 30*time.Second)
			defer cancel()
			if err := s.store.open(opening); err == nil || opening.Err() != nil {
				t.Errorf("open returns %v, its context %v", err, opening.Err())
			}
		})
	}
}

// TestDeviceMemoryIsKept damages the device worker's memory: what can be read is kept,
// and it is said that something may be forgotten.
func TestDeviceMemoryIsKept(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]struct {
		do   func(t *testing.T, dir string)
		kept bool
	}{
		"description missing": {func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "meta.inf")); err != nil {
				t.Fatal(err)
			}
		}, true},
		"checksum flipped": {func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, "meta.sum"), func(b []byte) []byte { b[0] ^= 1; return b })
		}, true},
		"everything missing": {func(t *testing.T, dir string) {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, ctx := newSite(t)
			s.start(t, ctx)
			if err := field.CreateState(ctx, s.js); err != nil {
				t.Fatal(err)
			}
			if _, err := s.js.Publish(ctx, "$KV.device-state.pump.commands", []byte("c-1")); err != nil {
				t.Fatal(err)
			}
			s.restart(t, ctx, nil)
			if at := s.store.deviceStateLostAt(); !at.IsZero() {
				t.Fatalf("forgot at %s, nothing was damaged", at)
			}
			s.restart(t, ctx, func(store string) { damage.do(t, filepath.Join(store, "$G", "streams", field.StateStream)) })
			for range 2 {
				if s.store.deviceStateLostAt().IsZero() {
					t.Error("nothing is said to be forgotten")
				}
				kv, err := s.js.KeyValue(ctx, "device-state")
				if err == nil {
					var e jetstream.KeyValueEntry
					if e, err = kv.Get(ctx, "pump.commands"); err == nil && string(e.Value()) != "c-1" {
						t.Errorf("value %q", e.Value())
					}
				}
				if (err == nil) != damage.kept {
					t.Errorf("read the memory: %v", err)
				}
				s.restart(t, ctx, nil)
			}
		})
	}
}

// TestBatchOfTheHubIsBounded has large messages waiting.
func TestBatchOfTheHubIsBounded(t *testing.T) {
	deliveries := make(chan *nats.Msg, transfer.BatchMessages)
	for i := range 20 {
		deliveries <- &nats.Msg{Subject: "desired.a.x", Reply: fmt.Sprintf("$JS.ACK.DESIRED.a.1.%d.%d.1.0", i+1, i+1), Data: make([]byte, 100<<10)}
	}
	in := newBatcher(t, deliveries)
	total := 0
	for total < 20 {
		got, err := in.next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(got.deliveries) > 3 {
			t.Errorf("%d messages of 100 KiB in one batch", len(got.deliveries))
		}
		total += len(got.deliveries)
	}
}
