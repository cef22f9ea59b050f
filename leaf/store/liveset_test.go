package store

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/streams"
)

// ackAll acknowledges all of SITE_DESIRED.
func (s *site) ackAll(t *testing.T, ctx context.Context) {
	t.Helper()
	if err := streams.EnsureConsumer(ctx, s.js, streams.SiteDesired, streams.LocalConsumer(streams.ApplyConsumer, "", 1000)); err != nil {
		t.Fatal(err)
	}
	c, err := s.js.Consumer(ctx, streams.SiteDesired, streams.ApplyConsumer)
	if err != nil {
		t.Fatal(err)
	}
	batch, err := c.Fetch(int(c.CachedInfo().NumPending))
	if err != nil {
		t.Fatal(err)
	}
	for m := range batch.Messages() {
		if err := m.DoubleAck(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

// TestCompactedObjectsStayAwayAfterAKill removes tombstones and leaves the server's files
// as a kill does: the versions before the tombstones do not come back, twice, while the
// same files without the live set bring them back.
func TestCompactedObjectsStayAwayAfterAKill(t *testing.T) {
	t.Parallel()
	s, ctx := startSite(t)
	gone := []string{"gone-1", "gone-2", "gone-3"}
	s.putLocal(t, ctx, "stays", streams.OpPut, 1)
	s.putLocal(t, ctx, "changes", streams.OpPut, 1)
	for _, name := range gone {
		for version := 1; version <= 3; version++ {
			s.putLocal(t, ctx, name, streams.OpPut, version)
		}
		s.putLocal(t, ctx, name, streams.OpDelete, 4)
	}
	s.putLocal(t, ctx, "end", streams.OpPut, 1)
	s.ackAll(t, ctx)
	if n, err := s.store.compactor.compact(ctx, 0); n != len(gone) || err != nil {
		t.Fatalf("%d tombstones removed, error %v", n, err)
	}
	s.putLocal(t, ctx, "changes", streams.OpPut, 2)
	s.putLocal(t, ctx, "gone-1", streams.OpPut, 5)

	without := s.twin(t)
	if err := os.Remove(filepath.Join(without.dataDir, liveSetName)); err != nil {
		t.Fatal(err)
	}
	without.start(t, ctx)
	if got := without.has(t, ctx, "gone-2"); got != "3" {
		t.Errorf("without the live set gone-2 is at version %q: the test has proved nothing", got)
	}

	killed := s.twin(t)
	for round := range 2 {
		killed.start(t, ctx)
		for name, want := range map[string]string{"gone-1": "5", "gone-2": "", "gone-3": "", "stays": "1", "changes": "2", "end": "1"} {
			if got := killed.has(t, ctx, name); got != want {
				t.Errorf("start %d: %s is at version %q, want %q", round+1, name, got, want)
			}
		}
		killed = killed.twin(t)
	}
}

// TestResurrectedMessagesAreRemovedBeforeAnybodyReads restarts the server under a leaf that runs, as its supervisor
// does, with a live set that lacks a message: that is removed before anybody else is connected
// to the new server.
func TestResurrectedMessagesAreRemovedBeforeAnybodyReads(t *testing.T) {
	t.Parallel()
	s, ctx := newSite(t)
	s.open(t, ctx)
	if err := s.store.Open(ctx); err != nil {
		t.Fatal(err)
	}
	s.putLocal(t, ctx, "back", streams.OpPut, 1)
	s.putLocal(t, ctx, "stays", streams.OpPut, 1)
	if err := newLiveSet(s.desired(t, ctx).CachedInfo(), []uint64{1, 2}, []uint64{1}).write(s.store.compactor.liveSetFile); err != nil {
		t.Fatal(err)
	}
	s.restartServer(t, ctx, func() error { return nil })
	for name, want := range map[string]string{"back": "", "stays": "1"} {
		if got := s.has(t, ctx, name); got != want {
			t.Errorf("%s is at version %q, want %q", name, got, want)
		}
	}
}

// TestNothingIsCompactedWithoutALiveSet cannot write the live set: the tombstones stay.
func TestNothingIsCompactedWithoutALiveSet(t *testing.T) {
	t.Parallel()
	s, ctx := startSite(t)
	s.putLocal(t, ctx, "gone", streams.OpPut, 1)
	s.putLocal(t, ctx, "gone", streams.OpDelete, 2)
	s.putLocal(t, ctx, "end", streams.OpPut, 1)
	s.ackAll(t, ctx)
	if err := os.Mkdir(s.store.compactor.liveSetFile, 0o700); err != nil {
		t.Fatal(err)
	}
	if n, err := s.store.compactor.compact(ctx, 0); n != 0 || err == nil {
		t.Errorf("%d removed, error %v", n, err)
	}
	if got := s.has(t, ctx, "gone"); got != "2" {
		t.Errorf("gone is at version %q, want its tombstone", got)
	}
	if err := os.Remove(s.store.compactor.liveSetFile); err != nil {
		t.Fatal(err)
	}
	if n, err := s.store.compactor.compact(ctx, 0); n != 1 || err != nil {
		t.Errorf("%d removed, error %v", n, err)
	}
}

// TestLiveSetOfAnotherStream is of a stream that was created again, or rolled back: it says
// nothing of that.
func TestLiveSetOfAnotherStream(t *testing.T) {
	made := time.Unix(1_700_000_000, 7)
	info := func(created time.Time, last uint64) *jetstream.StreamInfo {
		return &jetstream.StreamInfo{Created: created, State: jetstream.StreamState{LastSeq: last}}
	}
	c := newLiveSet(info(made, 9), []uint64{2, 5, 9}, []uint64{5})
	if fmt.Sprint(c.Kept) != "[2 9]" {
		t.Errorf("kept %v", c.Kept)
	}
	for _, one := range []struct {
		info *jetstream.StreamInfo
		want bool
	}{
		{info(made, 9), true},
		{info(made, 12), true},
		{info(made, 8), false},
		{info(made.Add(time.Second), 12), false},
	} {
		if got := c.describes(one.info); got != one.want {
			t.Errorf("of(%v, %d) = %t", one.info.Created, one.info.State.LastSeq, got)
		}
	}
}
