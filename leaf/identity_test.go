package leaf

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/streams"
)

// twin is a second leaf with the identity and a copy of the store of the first.
func (s *site) twin(t *testing.T) *site {
	t.Helper()
	dir := t.TempDir()
	store := filepath.Dir(s.host.StoreDir())
	if err := os.CopyFS(filepath.Join(dir, "js"), os.DirFS(store)); err != nil {
		t.Fatal(err)
	}
	other := &site{hubServer: s.hubServer, hub: s.hub, bridge: s.bridge, cfg: s.cfg, pace: s.pace}
	other.line = natstest.NewLine(t, s.hubServer.LeafAddr())
	other.cfg.DataDir = t.TempDir()
	if err := os.CopyFS(other.cfg.DataDir, os.DirFS(s.cfg.DataDir)); err != nil {
		t.Fatal(err)
	}
	other.cfg.NATS.ConfigFile = natstest.LeafConfIn(t, dir, "plant-a", other.line.Addr())
	return other
}

func (s *site) say(t *testing.T, ctx context.Context, who string, i int) {
	t.Helper()
	if _, err := s.js.Publish(ctx, streams.LocalTelemetrySubject("sample", "default", who), fmt.Append(nil, i)); err != nil {
		t.Fatal(err)
	}
}

// heard is what the hub has of one of the twins, in order.
func heard(t *testing.T, ctx context.Context, s *site, who string) (numbers []int) {
	t.Helper()
	hub, err := s.hub.Stream(ctx, streams.Telemetry("plant-a"))
	if err != nil {
		t.Fatal(err)
	}
	subject := streams.TelemetrySubject("plant-a", "sample", "default", who)
	for seq := uint64(1); seq <= hub.CachedInfo().State.LastSeq; seq++ {
		m, err := hub.GetMsg(ctx, seq)
		if err != nil {
			t.Fatal(err)
		}
		if m.Subject != subject {
			continue
		}
		var n int
		if _, err := fmt.Sscan(string(m.Data), &n); err != nil {
			t.Fatal(err)
		}
		numbers = append(numbers, n)
	}
	return numbers
}

// TestTwoLeavesWithOneIdentity clones a gateway's disk and lets both go on. While one is connected the
// hub refuses the other; when they take turns, the sequences of their streams are the same,
// their records are not, and the hub gets all of both. The objects of the site reach both.
func TestTwoLeavesWithOneIdentity(t *testing.T) {
	t.Parallel()
	const before, each = 20, 100
	s, ctx := newSite(t)
	s.pace = quick
	respond(t, s)
	s.start(t, ctx)
	for i := range before {
		s.say(t, ctx, "both", i)
		putDesired(t, ctx, s, fmt.Sprintf("cm-%d", i), i)
	}
	polltest.Eventually(t, "records", func() bool {
		return count(t, ctx, s.hub, streams.Telemetry("plant-a")) == before && backlog(t, ctx, s) == 0
	})
	s.stop()
	other := s.twin(t)
	s.start(t, ctx)
	s.up(t)
	other.start(t, ctx)
	for i := range each {
		s.say(t, ctx, "first", i)
		other.say(t, ctx, "second", i)
		if i%10 == 0 {
			putDesired(t, ctx, s, "shared", i)
		}
	}
	all := func(numbers []int) bool {
		have := map[int]bool{}
		for _, n := range numbers {
			have[n] = true
		}
		return len(have) == each
	}
	polltest.Eventually(t, "the records of the one that is connected", func() bool { return all(heard(t, ctx, s, "first")) && same(t, ctx, s) })
	if up, _, _ := other.link.State(); up {
		t.Error("both are connected")
	}
	if n := len(heard(t, ctx, s, "second")); n != 0 {
		t.Errorf("the hub has %d records of the one that it refuses", n)
	}
	start := time.Now()
	s.cut(t)
	polltest.Eventually(t, "the records of the other", func() bool { return all(heard(t, ctx, s, "second")) && same(t, ctx, other) })
	t.Logf("after %s", time.Since(start).Round(time.Millisecond))
	// The first comes back, and finds in the hub what it has not sent.
	other.cut(t)
	s.line.Heal()
	s.up(t)
	s.say(t, ctx, "first", each)
	putDesired(t, ctx, s, "shared", each)
	polltest.Eventually(t, "the next record and the next object of the first", func() bool {
		got := heard(t, ctx, s, "first")
		return len(got) > 0 && got[len(got)-1] == each && same(t, ctx, s)
	})
	for who, want := range map[string]int{"both": before, "first": each + 1, "second": each} {
		if got := heard(t, ctx, s, who); len(got) != want {
			t.Errorf("the %d records of %s are %d at the hub", want, who, len(got))
		}
	}
}

// acknowledged waits until the leaf knows that the hub has its first n records: the hub has
// them before.
func (s *site) acknowledged(t *testing.T, ctx context.Context, n uint64) {
	t.Helper()
	polltest.Eventually(t, "acknowledgements", func() bool {
		c, err := s.js.Consumer(ctx, streams.SiteTelemetry, streams.ForwardConsumer)
		return err == nil && c.CachedInfo().AckFloor.Stream == n
	})
}

// TestOlderCopyOfTheStore puts back a copy of the store from before some records were
// made, forwarded and acknowledged: what is stored at the same sequences afterwards
// arrives, what the hub has is not sent again, and desired state converges.
func TestOlderCopyOfTheStore(t *testing.T) {
	t.Parallel()
	const before, between, after = 20, 30, 40
	s, ctx := newSite(t)
	s.shortWindow(t, ctx)
	respond(t, s)
	s.start(t, ctx)
	for i := range before {
		s.say(t, ctx, "pump", i)
		putDesired(t, ctx, s, fmt.Sprintf("cm-%d", i), i)
	}
	polltest.Eventually(t, "records", func() bool {
		return count(t, ctx, s.hub, streams.Telemetry("plant-a")) == before && backlog(t, ctx, s) == 0 && same(t, ctx, s)
	})
	s.acknowledged(t, ctx, before)
	copied := t.TempDir()
	s.restart(t, ctx, func(store string) {
		if err := os.CopyFS(filepath.Join(copied, "js"), os.DirFS(store)); err != nil {
			t.Fatal(err)
		}
	})
	for i := range between {
		s.say(t, ctx, "pump", before+i)
		putDesired(t, ctx, s, fmt.Sprintf("later-%d", i), i)
	}
	polltest.Eventually(t, "more records", func() bool {
		return count(t, ctx, s.hub, streams.Telemetry("plant-a")) == before+between && backlog(t, ctx, s) == 0
	})
	s.acknowledged(t, ctx, before+between)
	s.cut(t)
	s.restart(t, ctx, func(store string) {
		if err := os.RemoveAll(store); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(store, os.DirFS(filepath.Join(copied, "js"))); err != nil {
			t.Fatal(err)
		}
	})
	select {
	case <-s.store.Desired().Complete():
		t.Error("desired state is shown although some of it is gone")
	default:
	}
	for i := range after {
		s.say(t, ctx, "pump", before+between+i)
	}
	s.line.Heal()
	const all = before + between + after
	polltest.Eventually(t, "all records", func() bool { return s.arrived(t, ctx, all-1) })
	if got := heard(t, ctx, s, "pump"); len(got) != all {
		t.Errorf("%d records at the hub, want %d", len(got), all)
	}
	polltest.Eventually(t, "convergence", func() bool { return backlog(t, ctx, s) == 0 && same(t, ctx, s) })
	polltest.Eventually(t, "desired state shown again", func() bool {
		select {
		case <-s.store.Desired().Complete():
			return true
		default:
			return false
		}
	})
	if n := s.store.Drops().Total(); n != 0 {
		t.Errorf("%d records are counted as dropped, the hub has them all", n)
	}
}
