package leaf

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"

	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/streams"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// site is a hub, a cuttable line and a leaf server with a forwarder on each stream.
type site struct {
	hub  jetstream.JetStream
	leaf jetstream.JetStream
	nc   *nats.Conn
	line *natstest.Line
	link *link
}

func startSite(t *testing.T) (*site, context.Context) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	hub := natstest.StartHub(t, "plant-a")
	line := natstest.NewLine(t, hub.LeafAddr())
	log := zaptest.NewLogger(t)
	server, err := startServer(ctx, natstest.LeafConf(t, "plant-a", line.Addr()), log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Shutdown(); server.WaitForShutdown() })
	nc, err := connect(NATSConfig{}, server, "plant-a", log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	s := &site{line: line, nc: nc, link: newLink(server, log)}
	if s.leaf, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	if s.hub, err = jetstream.New(hub.Connect(t, "bridge")); err != nil {
		t.Fatal(err)
	}
	if err := streams.Ensure(ctx, s.hub, streams.HubStreams(streams.HubLimits{})); err != nil {
		t.Fatal(err)
	}
	if err := streams.Ensure(ctx, s.leaf, streams.LeafStreams("plant-a", streams.LeafLimits{})); err != nil {
		t.Fatal(err)
	}
	if err := streams.EnsureConsumer(ctx, s.hub, streams.Desired, streams.SiteConsumer("plant-a")); err != nil {
		t.Fatal(err)
	}
	runCtx, stop := context.WithCancel(ctx)
	done := make(chan error, 4)
	r := &replicator{site: "plant-a", js: s.leaf, nc: nc, local: store{nc: nc, domain: "plant-a"}, link: s.link, log: log}
	go func() { done <- r.Run(runCtx) }()
	go func() { done <- s.link.Run(runCtx) }()
	for _, name := range []string{streams.SiteReported, streams.SiteTelemetry} {
		f := &forwarder{site: "plant-a", stream: name, js: s.leaf, hub: store{nc: nc, domain: streams.HubDomain}, link: s.link, log: log}
		go func() { done <- f.Run(runCtx) }()
	}
	t.Cleanup(func() {
		stop()
		for range 4 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
	return s, ctx
}

func wait(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for start := time.Now(); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Since(start) > 20*time.Second {
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}

func count(t *testing.T, ctx context.Context, js jetstream.JetStream, stream string) uint64 {
	t.Helper()
	s, err := js.Stream(ctx, stream)
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo().State.Msgs
}

// TestTelemetryArrivesInOrderThroughCuts cuts the line again and again while a
// producer writes: every record reaches the hub once, in the order of the source.
func TestTelemetryArrivesInOrderThroughCuts(t *testing.T) {
	s, ctx := startSite(t)
	const records = 3000
	for i := range records {
		if i%500 == 250 {
			s.line.Cut()
		}
		if i%500 == 499 {
			s.line.Heal()
		}
		if _, err := s.leaf.Publish(ctx, streams.LocalTelemetrySubject("sample", "default", "pump"), fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	s.line.Heal()
	wait(t, "all records at the hub", func() bool { return count(t, ctx, s.hub, streams.Telemetry) >= records })
	c, err := s.hub.OrderedConsumer(ctx, streams.Telemetry, jetstream.OrderedConsumerConfig{})
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
	if got := count(t, ctx, s.hub, streams.Telemetry); got != records {
		t.Fatalf("the hub has %d records, want %d", got, records)
	}
}

// TestReportedIsMergedWhileAway changes one object many times while the line is cut:
// the hub sees the newest state, and not the ones between.
func TestReportedIsMergedWhileAway(t *testing.T) {
	s, ctx := startSite(t)
	wait(t, "link", func() bool { up, _, _ := s.link.State(); return up })
	s.line.Cut()
	wait(t, "link down", func() bool { up, _, _ := s.link.State(); return !up })
	ref := streams.Ref{Node: "n", Resource: "pods", Namespace: "default", Name: "web"}
	for i := range 200 {
		m := streams.Message{Ref: ref, Op: streams.OpPut, UID: "u", Object: fmt.Appendf(nil, `{"metadata":{"name":"web","uid":"u"},"i":%d}`, i)}
		if _, err := streams.Put(ctx, s.leaf, streams.LocalReportedSubject(ref), m); err != nil {
			t.Fatal(err)
		}
	}
	s.line.Heal()
	wait(t, "state at the hub", func() bool { return count(t, ctx, s.hub, streams.Reported) == 1 })
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
