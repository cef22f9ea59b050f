package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/streams"
)

// TestLossIsReportedLater finds records lost while the stream takes no report: they are
// counted once, also after a restart, and reported when it does again.
func TestLossIsReportedLater(t *testing.T) {
	t.Parallel()
	s, ctx := newSite(t)
	s.open(t, ctx)
	if err := s.store.Open(ctx); err != nil {
		t.Fatal(err)
	}
	s.record(t, ctx, 0)
	s.store.losses.checkpointUpstream(ctx)
	had, _ := s.store.losses.checkpoints.Get(streams.SiteTelemetry)
	had.Last = 4
	if err := s.store.losses.checkpoints.Put(streams.SiteTelemetry, had); err != nil {
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
		s.store.losses.checkpointUpstream(ctx)
	}
	if n := count(t, ctx, s.js, streams.SiteTelemetry); n != 1 {
		t.Fatalf("%d records, the report was to be refused", n)
	}
	if n := s.store.Drops().Total(); n != 3 {
		t.Errorf("%d records are counted as lost, want 3", n)
	}
	s.stop()
	s.open(t, ctx)
	s.store.losses.checkpointUpstream(ctx)
	// As after a crash between the count and the checkpoint.
	if err := s.store.losses.checkpoints.Put(streams.SiteTelemetry, had); err != nil {
		t.Fatal(err)
	}
	largest(-1)
	for range 2 {
		s.store.losses.checkpointUpstream(ctx)
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
	if n := s.store.Drops().Total(); n != 3 {
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
			s.putLocal(t, ctx, "cm", streams.OpPut, 1)
			s.record(t, ctx, 1)
			store := s.server.StoreDir()
			s.stop()
			dir := filepath.Join(store, "$G", "streams", stream)
			if stream == streams.SiteTelemetry {
				spoilDescription(t, dir)
			} else {
				edit(t, filepath.Join(dir, "msgs", "1.blk"), func(b []byte) []byte { b[len(b)-40] ^= 1; return b })
			}
			s.open(t, ctx)
			if err := os.Remove(s.conf); err != nil {
				t.Fatal(err)
			}
			opening, cancel := context.WithTimeout(ctx, 30*time.Second)
			defer cancel()
			if err := s.store.Open(opening); err == nil || opening.Err() != nil {
				t.Errorf("open returns %v, its context %v", err, opening.Err())
			}
		})
	}
}

// spoilDescription damages a stream's description so that it cannot be written again: nobody can
// write a file in the place of a folder that is not empty.
func spoilDescription(t *testing.T, dir string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, "meta.inf")); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "meta.inf", "folder"), 0o700); err != nil {
		t.Fatal(err)
	}
}

// TestMessagesStayUntilAStreamIsCreated sets a stream aside and fails to create it, as on a full
// disk, which is also when copies of damaged streams are deleted: the messages are there when it
// can be created.
func TestMessagesStayUntilAStreamIsCreated(t *testing.T) {
	t.Parallel()
	const records = 3
	s, ctx := newSite(t)
	s.start(t, ctx)
	for range records {
		s.record(t, ctx, 1)
	}
	store := s.server.StoreDir()
	s.stop()
	spoilDescription(t, filepath.Join(store, "$G", "streams", streams.SiteTelemetry))
	s.open(t, ctx)
	ended, end := context.WithCancel(ctx)
	end()
	if err := s.store.recoverStreams(ended, true); !errors.Is(err, context.Canceled) {
		t.Fatalf("streams are created after the end of the context: %v", err)
	}
	if err := s.store.telemetry.disk.releaseSpace(); err != nil {
		t.Fatal(err)
	}
	if err := s.store.recoverStreams(ctx, true); err != nil {
		t.Fatal(err)
	}
	if last, ok := s.server.LastAtStart(streams.SiteTelemetry); !ok || last != records {
		t.Errorf("last record %d (known: %t), want %d", last, ok, records)
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
		"description flipped": {func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, "meta.inf"), func(b []byte) []byte { b[0] ^= 1; return b })
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
			if err := createState(ctx, s.js); err != nil {
				t.Fatal(err)
			}
			if _, err := s.js.Publish(ctx, "$KV."+bucket+".pump.commands", []byte("c-1")); err != nil {
				t.Fatal(err)
			}
			s.restart(t, ctx, nil)
			if at := s.store.DeviceStateLostAt(); !at.IsZero() {
				t.Fatalf("forgot at %s, nothing was damaged", at)
			}
			s.restart(t, ctx, func(store string) { damage.do(t, filepath.Join(store, "$G", "streams", "KV_"+bucket)) })
			for range 2 {
				if s.store.DeviceStateLostAt().IsZero() {
					t.Error("nothing is said to be forgotten")
				}
				kv, err := s.js.KeyValue(ctx, bucket)
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

// TestDamagedMemoryIsForgotten damages the body of a superseding value of the device
// worker's memory, which nats-server leaves out without a word: the leaf knows.
func TestDamagedMemoryIsForgotten(t *testing.T) {
	t.Parallel()
	s, ctx := newSite(t)
	s.open(t, ctx)
	if err := s.store.Open(ctx); err != nil {
		t.Fatal(err)
	}
	if err := createState(ctx, s.js); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		subject := "$KV." + bucket + ".pump"
		if _, err := s.js.Publish(ctx, subject, fmt.Appendf(nil, `{"command":%d}`, i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.store.losses.checkDeviceState(ctx, false); err != nil || !s.store.DeviceStateLostAt().IsZero() {
		t.Fatalf("forgot %s, %v", s.store.DeviceStateLostAt(), err)
	}
	dir := filepath.Join(s.server.StoreDir(), "$G", "streams", "KV_"+bucket)
	s.stop()
	edit(t, filepath.Join(dir, "msgs", "1.blk"), func(b []byte) []byte {
		b[len(b)-10] ^= 1
		return b
	})
	s.open(t, ctx)
	if err := s.store.Open(ctx); err != nil {
		t.Fatal(err)
	}
	if s.store.DeviceStateLostAt().IsZero() {
		t.Error("the memory counts as whole")
	}
	if !slices.Contains(s.store.Degraded(), streams.DegradedStore) {
		t.Error("presence does not tell")
	}
}
