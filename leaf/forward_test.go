package leaf

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/streams"
)

// TestTelemetryArrivesInOrderThroughCuts cuts the line again and again while a
// producer writes: every record reaches the hub once, in the order of the source.
func TestTelemetryArrivesInOrderThroughCuts(t *testing.T) {
	t.Parallel()
	s, ctx := startSite(t)
	respond(t, s)
	const records = 600
	for i := range records {
		if i%100 == 50 {
			s.line.Cut()
		}
		if i%100 == 99 {
			s.line.Heal()
		}
		if _, err := s.js.Publish(ctx, streams.LocalTelemetrySubject("sample", "default", "pump"), fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	s.line.Heal()
	polltest.Eventually(t, "all records at the hub", func() bool { return count(t, ctx, s.hub, streams.Telemetry("plant-a")) >= records })
	c, err := s.hub.OrderedConsumer(ctx, streams.Telemetry("plant-a"), jetstream.OrderedConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range records {
		m, err := c.Next(jetstream.FetchMaxWait(5 * time.Second))
		if err != nil {
			t.Fatal(err)
		}
		if got, want := string(m.Data()), fmt.Sprint(i); got != want {
			t.Fatalf("record %d at the hub is %s", i, got)
		}
	}
	if got := count(t, ctx, s.hub, streams.Telemetry("plant-a")); got != records {
		t.Fatalf("the hub has %d records, want %d", got, records)
	}
}

// TestReportedIsMergedWhileAway changes one object many times while the line is cut:
// the hub sees the newest state, and not the ones between.
func TestReportedIsMergedWhileAway(t *testing.T) {
	t.Parallel()
	s, ctx := startSite(t)
	respond(t, s)
	polltest.Eventually(t, "link", func() bool { up, _, _ := s.link.State(); return up })
	s.line.Cut()
	polltest.Eventually(t, "link down", func() bool { up, _, _ := s.link.State(); return !up })
	ref := streams.Ref{Node: "n", Resource: "pods", Namespace: "default", Name: "web"}
	for i := range 200 {
		m := streams.Message{Ref: ref, Op: streams.OpPut, UID: "u", Object: fmt.Appendf(nil, `{"metadata":{"name":"web","uid":"u"},"i":%d}`, i)}
		if _, err := streams.Put(ctx, s.js, streams.LocalReportedSubject(ref), m); err != nil {
			t.Fatal(err)
		}
	}
	s.line.Heal()
	polltest.Eventually(t, "state at the hub", func() bool { return count(t, ctx, s.hub, streams.Reported) == 1 })
	hub, err := s.hub.Stream(ctx, streams.Reported)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := hub.GetLastMsgForSubject(ctx, streams.ReportedSubject("plant-a", ref))
	if err != nil {
		t.Fatal(err)
	}
	site, m, err := streams.Load(ctx, hub, raw.Subject, raw.Header, raw.Data)
	if err != nil || site != "plant-a" || string(m.Object) != `{"metadata":{"name":"web","uid":"u"},"i":199}` {
		t.Fatalf("at the hub: %s %s %v", site, m.Object, err)
	}
	if raw.Sequence != 1 {
		t.Errorf("the newest state is message %d at the hub, want 1: what was superseded crossed too", raw.Sequence)
	}
}
