package leaf

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/streams"
)

// kbit is 1 kbit/s, in bytes per second.
const kbit = 1000 / 8

// noise does not compress by more than a quarter.
func noise(bytes int) string { return natstest.Noise(bytes) }

// slow limits the line and waits until the link is up on it.
func (s *site) slow(t testing.TB, rate int) {
	t.Helper()
	s.line.Limit(rate)
	s.line.Restore()
	polltest.Eventually(t, "link up", func() bool { up, _, _ := s.link.State(); return up })
}

// TestSlowLineBringsABacklog has a site return over a slow line with a backlog that takes
// longer than the leaf waits for the answer to its pings, 12 s: it arrives, the
// connection is not lost meanwhile, and what is asked in between is answered.
func TestSlowLineBringsABacklog(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		rate, objects, size int
	}{
		"256 kbit/s, 25 objects of 20 kB": {256 * kbit, 25, 20_000},
		"64 kbit/s, 6 objects of 20 kB":   {64 * kbit, 6, 20_000},
		"64 kbit/s, one of 110 kB":        {64 * kbit, 1, 110_000},
		"9.6 kbit/s, 18 objects of 1 kB":  {96 * kbit / 10, 18, 1_000},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, ctx := newSite(t)
			s.start(t, ctx)
			respond(t, s)
			s.up(t)
			s.cut(t)
			for i := range c.objects {
				putDesired(t, ctx, s, fmt.Sprintf("cm-%d", i), noise(c.size))
			}
			s.slow(t, c.rate)
			_, since, _ := s.link.State()
			start, slowest := time.Now(), time.Duration(0)
			ask := func() error {
				_, err := s.nc.Request(streams.RequestSubject("plant-a", streams.RequestPosition), []byte(`{"stream":"SITE_TELEMETRY"}`), polltest.Limit)
				return err
			}
			// A link that is up takes a moment to learn who answers at its other end.
			polltest.Eventually(t, "the hub answers", func() bool { return !errors.Is(ask(), nats.ErrNoResponders) })
			for backlog(t, ctx, s) > 0 {
				asked := time.Now()
				if err := ask(); err != nil {
					t.Fatalf("with a backlog of %d: %v", backlog(t, ctx, s), err)
				}
				slowest = max(slowest, time.Since(asked))
				if _, now, _ := s.link.State(); now != since {
					t.Fatalf("the link was lost after %s, with a backlog of %d", time.Since(start).Round(time.Second), backlog(t, ctx, s))
				}
			}
			took := time.Since(start)
			t.Logf("%d bytes in %s, %.0f%% of the line; answers within %s", c.objects*c.size, took.Round(time.Second),
				100*float64(c.objects*c.size)/float64(c.rate)/took.Seconds(), slowest.Round(10*time.Millisecond))
			if !same(t, ctx, s) {
				t.Error("an object is missing at the site")
			}
		})
	}
}

// TestSlowLineTakesATelemetryBacklog has what a site recorded while it was away go up a slow
// line: it arrives in order, and the connection is not lost meanwhile.
func TestSlowLineTakesATelemetryBacklog(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		rate, records, size int
	}{
		"64 kbit/s, 12 records of 10 kB": {64 * kbit, 12, 10_000},
		"64 kbit/s, 400 of 300 bytes":    {64 * kbit, 400, 300},
		"9.6 kbit/s, 60 of 300 bytes":    {96 * kbit / 10, 60, 300},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, ctx := newSite(t)
			s.start(t, ctx)
			respond(t, s)
			s.up(t)
			s.cut(t)
			for range c.records {
				if _, err := s.js.PublishAsync(streams.LocalTelemetrySubject("sample", "default", "pump"), []byte(noise(c.size)), jetstream.WithStallWait(10*time.Second)); err != nil {
					t.Fatal(err)
				}
			}
			<-s.js.PublishAsyncComplete()
			s.slow(t, c.rate)
			_, since, _ := s.link.State()
			start := time.Now()
			for arrived(t, ctx, s) < c.records {
				if _, now, _ := s.link.State(); now != since {
					t.Fatalf("the link was lost after %s, with %d records at the hub", time.Since(start).Round(time.Second), arrived(t, ctx, s))
				}
				time.Sleep(50 * time.Millisecond)
			}
			took := time.Since(start)
			t.Logf("%d bytes in %s, %.0f%% of the line", c.records*c.size, took.Round(time.Second), 100*float64(c.records*c.size)/float64(c.rate)/took.Seconds())
		})
	}
}

func arrived(t testing.TB, ctx context.Context, s *site) int {
	t.Helper()
	return int(count(t, ctx, s.hub, streams.Telemetry("plant-a")))
}

// TestSlowLineTakesBothDirections has a site return over a slow line with a backlog of each
// kind: objects to the site, reports and telemetry from it. The request for the objects waits
// behind few bytes of the others: with more, the connection was lost before an object had arrived.
func TestSlowLineTakesBothDirections(t *testing.T) {
	t.Parallel()
	s, ctx := newSite(t)
	s.configure(t, `"4s"`, `"30s"`)
	s.start(t, ctx)
	respond(t, s)
	s.up(t)
	s.cut(t)
	for i := range 3 {
		putDesired(t, ctx, s, fmt.Sprintf("cm-%d", i), noise(20_000))
	}
	for i := range 60 {
		ref := streams.Ref{Node: "n", Resource: "pods", Namespace: "default", Name: fmt.Sprintf("pod-%d", i)}
		m := streams.Message{Ref: ref, Op: streams.OpPut, UID: "u", Object: []byte(`{"metadata":{"name":"` + ref.Name + `"},"status":{"message":"` + noise(600) + `"}}`)}
		if _, err := streams.Put(ctx, s.js, streams.LocalReportedSubject(ref), m); err != nil {
			t.Fatal(err)
		}
		if _, err := s.js.Publish(ctx, streams.LocalTelemetrySubject("sample", "default", "pump"), []byte(noise(600))); err != nil {
			t.Fatal(err)
		}
	}
	down, up := s.line.Moved(natstest.Downward), s.line.Moved(natstest.Upward)
	s.slow(t, 96*kbit/10)
	// What comes down before the objects has 4 kB.
	polltest.Within(t, 2*time.Minute, "an object comes down", func() bool { return s.line.Moved(natstest.Downward)-down > 8_000 })
	if up = s.line.Moved(natstest.Upward) - up; up > 20_000 {
		t.Errorf("an object comes down after %d bytes have gone up", up)
	}
}
