package leaf

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/leaf/transfer"
	"github.com/petiole-io/petiole/streams"
)

// TestProfile refuses a profile that does not exist, and one that cannot be carried out.
func TestProfile(t *testing.T) {
	t.Parallel()
	for profile, c := range map[string]struct {
		url  string
		want string
	}{
		"":        {"", `link.profile: Unsupported value: "": supported values: "default", "metered"`},
		"cheap":   {"", `link.profile: Unsupported value: "cheap": supported values: "default", "metered"`},
		"metered": {"nats://127.0.0.1:4222", `link.profile: Invalid value: "metered": needs nats.configFile`},
		"default": {"nats://127.0.0.1:4222", ""},
		"Metered": {"", `link.profile: Unsupported value: "Metered"`},
	} {
		cfg := DefaultConfig()
		cfg.Link.Profile, cfg.NATS.URL = profile, c.url
		if got := fmt.Sprint(cfg.Validate()); c.want != "" && !strings.Contains(got, c.want) || c.want == "" && strings.Contains(got, "link.profile") {
			t.Errorf("profile %q: %s, want %s", profile, got, c.want)
		}
	}
}

// TestRecordsGather has records wait until there are as many as one commit takes.
func TestRecordsGather(t *testing.T) {
	t.Parallel()
	s, ctx := newSite(t)
	s.gather = time.Hour
	s.start(t, ctx)
	s.up(t)
	sizes := make([]int, transfer.BatchMessages+44)
	for i := range sizes {
		sizes[i] = 40
	}
	record(t, ctx, s, sizes...)
	polltest.Eventually(t, "as many records as one commit takes are at the hub", func() bool { return arrived(t, ctx, s) >= transfer.BatchMessages })
	if n := arrived(t, ctx, s); n != transfer.BatchMessages {
		t.Errorf("%d records are at the hub, want %d; the others wait", n, transfer.BatchMessages)
	}
	if n := gather(t, s, "petiole_leaf_link_bytes_total"); n < 40*transfer.BatchMessages {
		t.Errorf("%v bytes were counted", n)
	}
}

// TestWireIsCounted compares what the kernel counts for the connection with what the line carried.
func TestWireIsCounted(t *testing.T) {
	t.Parallel()
	s, ctx := newSite(t)
	s.start(t, ctx)
	s.up(t)
	w := newWire(s.host)
	putDesired(t, ctx, s, "large", noise(100_000))
	polltest.Eventually(t, "the object", func() bool { return same(t, ctx, s) && backlog(t, ctx, s) == 0 })
	polltest.Eventually(t, "the bytes are counted", func() bool {
		up, down, _ := w.total()
		moved := uint64(s.line.Moved(natstest.Downward))
		return up >= uint64(s.line.Moved(natstest.Upward)) && down >= moved && down < moved*3/2
	})
	_, before, _ := w.total()
	s.cut(t)
	s.line.Heal()
	s.up(t)
	polltest.Eventually(t, "the bytes of the next connection are added", func() bool { _, now, _ := w.total(); return now > before })
}

// TestHeartbeatOnRequest has a leaf whose heartbeats are two minutes apart: it sends one when a bridge
// that begins to lead asks for it, with the time until the next one.
func TestHeartbeatOnRequest(t *testing.T) {
	t.Parallel()
	s, ctx := newSite(t)
	s.cfg.Link.Profile = profileMetered
	w := startWhole(t, ctx, s)
	beats := func() int {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.beats)
	}
	polltest.Eventually(t, "the first heartbeat", func() bool { return beats() > 0 })
	first := beats()
	msg := nats.NewMsg(streams.SyncSubject("plant-a"))
	msg.Header.Set(streams.HeaderControl, streams.ControlPresence)
	polltest.Eventually(t, "a heartbeat on request", func() bool {
		if err := s.bridge.PublishMsg(msg); err != nil {
			t.Fatal(err)
		}
		return beats() > first
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, at := range []time.Time{w.beats[0].Time, w.beats[0].LinkSince} {
		if at.IsZero() || at.Nanosecond()%int(time.Millisecond) != 0 {
			t.Errorf("a heartbeat has the time %s", at)
		}
	}
	if got := w.beats[0].Interval; got != 120 || w.beats[0].Timeout() != 5*time.Minute {
		t.Errorf("the interval is %d s, the timeout %s", got, w.beats[0].Timeout())
	}
}
