package leaf

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

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
			polltest.Eventually(t, "first record", func() bool { return count(t, ctx, s.hub, streams.Telemetry("plant-a")) == 1 })
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
				return backlog(t, ctx, s) == 0 && same(t, ctx, s) && (name == "idle both ways" || count(t, ctx, s.hub, streams.Telemetry("plant-a")) == 2)
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
		done = count(t, ctx, s.hub, streams.Telemetry("plant-a")) == records && backlog(t, ctx, s) == 0
		if time.Since(start) > 80*time.Second {
			t.Fatalf("after %d flaps: %d records, backlog %d", flaps, count(t, ctx, s.hub, streams.Telemetry("plant-a")), backlog(t, ctx, s))
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
