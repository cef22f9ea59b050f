package leaf

import (
	"fmt"
	"testing"
	"time"

	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/streams"
)

// TestRequestThatTheHubLacks deletes the hub's stream while a request for deliveries is on its way, which
// nobody answers then. The site makes another when the bridge tells it that something waits.
func TestRequestThatTheHubLacks(t *testing.T) {
	t.Parallel()
	s, ctx := startSite(t)
	s.line.Delay(50*time.Millisecond, 0)
	putDesired(t, ctx, s, "cm-0", 0)
	polltest.Eventually(t, "objects", func() bool { return backlog(t, ctx, s) == 0 && same(t, ctx, s) })
	for i := 0; !losesRequest(t, s, i); i++ {
		if i == 200 {
			t.Fatal("no request was lost: the test has proved nothing")
		}
	}
	_, since, _ := s.link.State()
	// Each of these messages is a sign of life of the hub: the site never misses a heartbeat.
	polltest.Eventually(t, "convergence", func() bool {
		if err := s.bridge.PublishMsg(streams.Control("plant-a", streams.ControlRequest)); err != nil {
			t.Fatal(err)
		}
		return backlog(t, ctx, s) == 0 && same(t, ctx, s)
	})
	if _, now, _ := s.link.State(); now != since {
		t.Error("the link did not stay up: the test has proved nothing")
	}
}

// losesRequest replaces DESIRED shortly after some messages that the site requests the next ones after,
// and reports whether what is then published waits without a request.
func losesRequest(t *testing.T, s *site, attempt int) bool {
	t.Helper()
	ctx := t.Context()
	waiting := func() (pending uint64, requests int) {
		c, err := s.hub.Consumer(ctx, streams.Desired, "plant-a")
		if err != nil {
			t.Fatal(err)
		}
		return c.CachedInfo().NumPending, c.CachedInfo().NumWaiting
	}
	polltest.Eventually(t, "a request", func() bool { _, n := waiting(); return n > 0 })
	for i := range 8 + attempt%12 {
		putDesired(t, ctx, s, fmt.Sprintf("cm-%d", i), attempt)
	}
	time.Sleep(time.Duration(attempt%7) * 15 * time.Millisecond) // the request is sent when the last of them arrives
	if err := s.hub.DeleteStream(ctx, streams.Desired); err != nil {
		t.Fatal(err)
	}
	time.Sleep(150 * time.Millisecond) // a request that is on its way arrives while there is no consumer
	if err := streams.Ensure(ctx, s.hub, streams.HubStreams(streams.HubLimits{})); err != nil {
		t.Fatal(err)
	}
	putDesired(t, ctx, s, "cm-0", 1000+attempt)
	if err := streams.EnsureConsumer(ctx, s.hub, streams.Desired, streams.SiteConsumer("plant-a")); err != nil {
		t.Fatal(err)
	}
	for start := time.Now(); time.Since(start) < 3*time.Second; time.Sleep(20 * time.Millisecond) {
		if pending, requests := waiting(); pending == 0 || requests > 0 {
			return false
		}
	}
	return true
}
