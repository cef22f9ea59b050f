package leaf

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/streams"
)

// TestHalfOpenLink swallows what goes over the line, in one direction or both, and says
// nothing to either end: the leaf knows within 15 s, and what waits arrives after.
func TestHalfOpenLink(t *testing.T) {
	t.Parallel()
	for name, directions := range map[string][]natstest.Direction{
		"both ways":      {natstest.Upward, natstest.Downward},
		"hub to site":    {natstest.Downward},
		"site to hub":    {natstest.Upward},
		"idle both ways": {natstest.Upward, natstest.Downward},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, ctx := startSite(t)
			respond(t, s)
			s.up(t)
			s.record(t, ctx, 0, 10)
			polltest.Eventually(t, "first record", func() bool { return count(t, ctx, s.hub, streams.Telemetry) == 1 })
			s.line.Swallow(directions...)
			start := time.Now()
			if name != "idle both ways" {
				s.record(t, ctx, 1, 10)
				putDesired(t, ctx, s, "x", 1)
			}
			polltest.Within(t, 15*time.Second, "half-open link found", func() bool { up, _, _ := s.link.State(); return !up })
			t.Logf("found after %s", time.Since(start).Round(time.Millisecond))
			s.line.Heal()
			polltest.Eventually(t, "convergence", func() bool {
				return backlog(t, ctx, s) == 0 && same(t, ctx, s) && (name == "idle both ways" || count(t, ctx, s.hub, streams.Telemetry) == 2)
			})
		})
	}
}

// TestFlappingLinkMakesProgress has the line up for a second and down for a second while
// 2,000 records go up and 200 objects come down.
func TestFlappingLinkMakesProgress(t *testing.T) { // alone: a second of link has to be one
	const records, objects = 2000, 200
	s, ctx := startSite(t)
	respond(t, s)
	s.up(t)
	s.cut(t)
	for i := range records {
		if _, err := s.js.PublishAsync(streams.LocalTelemetrySubject("sample", "default", "pump"), fmt.Append(nil, i), jetstream.WithStallWait(10*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	<-s.js.PublishAsyncComplete()
	for i := range objects {
		putDesiredAsync(t, s, fmt.Sprintf("cm-%d", i), i)
	}
	<-s.hub.PublishAsyncComplete()
	s.line.Limit(40 << 10) // so that one second is not enough
	start, flaps := time.Now(), 0
	for done := false; !done; flaps++ {
		s.line.Restore()
		time.Sleep(time.Second) // the fault itself
		s.line.Cut()
		time.Sleep(time.Second)
		done = count(t, ctx, s.hub, streams.Telemetry) == records && backlog(t, ctx, s) == 0
		if time.Since(start) > 80*time.Second {
			t.Fatalf("after %d flaps: %d records, backlog %d", flaps, count(t, ctx, s.hub, streams.Telemetry), backlog(t, ctx, s))
		}
	}
	t.Logf("%d records and %d objects in %s, %d times a second of link", records, objects, time.Since(start).Round(time.Second), flaps)
	for i, got := range s.stored(t, ctx) {
		if got.number != i {
			t.Fatalf("record %d at the hub is %d", i, got.number)
		}
	}
	if !same(t, ctx, s) {
		t.Error("an object is missing at the site")
	}
}

// TestSessionsReturnWithJitter ends a session of many sites at one moment, as an outage
// of the hub's JetStream does: they do not return at one moment.
func TestSessionsReturnWithJitter(t *testing.T) {
	t.Parallel()
	const sites = 20
	begins := make(chan time.Time, 2*sites)
	ctx, end := context.WithTimeout(t.Context(), 10*time.Second)
	l := newLink(nil, newCounts(), zap.NewNop())
	done := make(chan error, sites)
	for range sites {
		fails := 0
		go func() {
			done <- l.sessions(ctx, zap.NewNop(), func(ctx context.Context) (int, error) {
				begins <- time.Now()
				if fails++; fails > 1 {
					<-ctx.Done()
				}
				return 0, errors.New("the hub's JetStream is gone")
			})
		}()
	}
	defer func() {
		end()
		for range sites {
			<-done
		}
	}()
	for range sites {
		<-begins
	}
	var first, last time.Time
	for range sites {
		select {
		case at := <-begins:
			if first.IsZero() {
				first = at
			}
			last = at
		case <-ctx.Done():
			t.Fatal("a session did not begin again")
		}
	}
	if spread := last.Sub(first); spread < minBackoff/4 {
		t.Errorf("%d sessions began again within %s", sites, spread)
	}
}
