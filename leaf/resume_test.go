package leaf

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/streams"
)

// shortWindow gives the hub's telemetry a duplicate window that is over soon.
func (s *site) shortWindow(t *testing.T, ctx context.Context) {
	t.Helper()
	for _, cfg := range append(streams.HubStreams(streams.HubLimits{}), streams.SiteStreams("plant-a", streams.SiteLimits{})...) {
		if cfg.Name == streams.Telemetry("plant-a") || cfg.Name == streams.Reported("plant-a") {
			cfg.Duplicates = 100 * time.Millisecond
			if _, err := s.hub.UpdateStream(ctx, cfg); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func (s *site) record(t *testing.T, ctx context.Context, i, size int) {
	t.Helper()
	body := fmt.Sprintf("%d %s", i, strings.Repeat("x", size))
	if _, err := s.js.Publish(ctx, streams.LocalTelemetrySubject("sample", "default", "pump"), []byte(body)); err != nil {
		t.Fatal(err)
	}
}

// stored is what the hub's TELEMETRY has, in order: the number of each record, or the
// numbers that a gap says are missing.
type stored struct {
	number int
	gap    *streams.Gap
}

func (s *site) stored(t *testing.T, ctx context.Context) []stored {
	t.Helper()
	hub, err := s.hub.Stream(ctx, streams.Telemetry("plant-a"))
	if err != nil {
		t.Fatal(err)
	}
	var out []stored
	state := hub.CachedInfo().State
	if state.Msgs == 0 {
		return nil
	}
	for seq := state.FirstSeq; seq <= state.LastSeq; seq++ {
		m, err := hub.GetMsg(ctx, seq)
		if err != nil {
			t.Fatal(err)
		}
		var one stored
		if strings.HasPrefix(m.Subject, streams.TelemetrySubject("plant-a", streams.GapKind)) {
			if err := json.Unmarshal(m.Data, &one.gap); err != nil {
				t.Fatal(err)
			}
		} else if _, err := fmt.Sscan(string(m.Data), &one.number); err != nil {
			t.Fatal(err)
		}
		out = append(out, one)
	}
	return out
}

// TestAcknowledgementLostLongAgo lets the hub store records whose acknowledgements are
// swallowed, and the link come back after the duplicate window: each is stored once.
func TestAcknowledgementLostLongAgo(t *testing.T) {
	t.Parallel()
	s, ctx := newSite(t)
	s.shortWindow(t, ctx)
	b := respond(t, s)
	s.start(t, ctx)
	s.up(t)
	s.record(t, ctx, 0, 10)
	polltest.Eventually(t, "first record", func() bool {
		c, err := s.js.Consumer(ctx, streams.SiteTelemetry, streams.ForwardConsumer)
		return err == nil && c.CachedInfo().AckFloor.Stream == 1
	})
	s.line.Swallow(natstest.Downward)
	for i := 1; i <= 40; i++ {
		s.record(t, ctx, i, 10)
	}
	var sent uint64
	polltest.Eventually(t, "records without acknowledgement", func() bool {
		sent = count(t, ctx, s.hub, streams.Telemetry("plant-a"))
		return sent > 1
	})
	time.Sleep(300 * time.Millisecond) // the duplicate window
	s.cut(t)
	for i := 41; i <= 50; i++ {
		s.record(t, ctx, i, 10)
	}
	s.line.Heal()
	polltest.Eventually(t, "all records", func() bool { return count(t, ctx, s.hub, streams.Telemetry("plant-a")) >= 51 })
	for i, got := range s.stored(t, ctx) {
		if got.gap != nil || got.number != i {
			t.Fatalf("message %d at the hub is %+v", i, got)
		}
	}
	if counted(t, s, "petiole_leaf_passed_over_total") == 0 {
		t.Error("nothing was passed over: the test has proved nothing")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.asked == 0 {
		t.Error("nobody asked for the position")
	}
}

// TestPositionNotKnown has a bridge that does not answer: records go on, and what is
// sent again within the duplicate window is stored once.
func TestPositionNotKnown(t *testing.T) {
	t.Parallel()
	s, ctx := newSite(t)
	b := respond(t, s)
	b.silent = true
	s.start(t, ctx)
	s.up(t)
	for i := range 20 {
		s.record(t, ctx, i, 10)
	}
	polltest.Eventually(t, "records", func() bool { return count(t, ctx, s.hub, streams.Telemetry("plant-a")) == 20 })
	s.cut(t)
	for i := range 5 {
		s.record(t, ctx, 20+i, 10)
	}
	s.line.Heal()
	polltest.Eventually(t, "all records", func() bool { return count(t, ctx, s.hub, streams.Telemetry("plant-a")) == 25 })
}

// TestHubLostWhatItAcknowledged rolls the hub's stream back: the site sends again what
// it still has.
func TestHubLostWhatItAcknowledged(t *testing.T) {
	t.Parallel()
	s, ctx := newSite(t)
	s.shortWindow(t, ctx)
	respond(t, s)
	s.start(t, ctx)
	for i := range 30 {
		s.record(t, ctx, i, 10)
	}
	polltest.Eventually(t, "records", func() bool { return count(t, ctx, s.hub, streams.Telemetry("plant-a")) == 30 })
	s.cut(t)
	hub, err := s.hub.Stream(ctx, streams.Telemetry("plant-a"))
	if err != nil {
		t.Fatal(err)
	}
	for seq := uint64(30); seq > 20; seq-- {
		if err := hub.DeleteMsg(ctx, seq); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(200 * time.Millisecond) // the duplicate window
	s.line.Heal()
	polltest.Eventually(t, "records again", func() bool { return count(t, ctx, s.hub, streams.Telemetry("plant-a")) == 30 })
}

// arrived reports whether the hub's last record is that number.
func (s *site) arrived(t *testing.T, ctx context.Context, number int) bool {
	t.Helper()
	hub, err := s.hub.Stream(ctx, streams.Telemetry("plant-a"))
	if err != nil {
		t.Fatal(err)
	}
	last, err := hub.GetLastMsgForSubject(ctx, streams.TelemetrySubject("plant-a", "sample", "default", "pump"))
	var got int
	if err == nil {
		_, err = fmt.Sscan(string(last.Data), &got)
	}
	return err == nil && got == number
}

// checkAccount reports whether every number from 0 up to before is at the hub once, or in
// exactly one gap, in order; number i is sequence i+1 of the leaf's stream.
func checkAccount(t *testing.T, all []stored, before int) (missing int) {
	t.Helper()
	next := 0
	for i, one := range all {
		switch {
		case one.gap != nil:
			if int(one.gap.From) != next+1 {
				t.Fatalf("message %d: a gap from %d to %d, want it from %d", i, one.gap.From, one.gap.To, next+1)
			}
			missing += int(one.gap.To - one.gap.From + 1)
			next = int(one.gap.To)
		case one.number != next:
			t.Fatalf("message %d is record %d, want %d", i, one.number, next)
		default:
			next++
		}
	}
	if next != before {
		t.Fatalf("the hub's account ends at %d, want %d", next, before)
	}
	return missing
}

// TestEveryDroppedRecordIsReported lets a small telemetry stream overflow while the link
// is down, three times, with a restart: each record is at the hub or in one gap.
func TestEveryDroppedRecordIsReported(t *testing.T) {
	t.Parallel()
	s, ctx := newSite(t)
	s.cfg.Storage.TelemetryBytes = 100 << 10
	respond(t, s)
	s.start(t, ctx)
	n := 0
	for round := range 3 {
		s.up(t)
		for range 50 {
			s.record(t, ctx, n, 1000)
			n++
		}
		s.cut(t)
		for range 300 {
			s.record(t, ctx, n, 1000)
			n++
		}
		if round == 1 {
			s.restart(t, ctx, nil)
		}
		s.line.Heal()
		polltest.Eventually(t, "account", func() bool { return s.arrived(t, ctx, n-1) })
	}
	missing := checkAccount(t, s.stored(t, ctx), n)
	if missing < 100 {
		t.Fatalf("%d records were dropped: the test has proved nothing", missing)
	}
	if got := s.store.Drops().Total(); got != uint64(missing) {
		t.Errorf("%d are counted as dropped, %d are reported", got, missing)
	}
	s.restart(t, ctx, nil)
	if got := s.store.Drops().Total(); got != uint64(missing) {
		t.Errorf("after a restart %d are counted as dropped, want %d", got, missing)
	}
}
