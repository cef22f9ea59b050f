package leaf

import (
	"context"
	"fmt"
	"strings"
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

// TestRecordDeliveredLate has a consumer that delivers a record and a report behind later ones, as
// nats-server does with what it sent to the request of an ended session: none is taken for lost, and
// the hub has all, the records in order.
func TestRecordDeliveredLate(t *testing.T) {
	t.Parallel()
	for _, stream := range []string{streams.SiteTelemetry, streams.SiteReported} {
		t.Run(stream, func(t *testing.T) {
			t.Parallel()
			s, ctx := startSite(t)
			respond(t, s)
			publish, at := func(i int) { s.record(t, ctx, i, 10) }, streams.Telemetry("plant-a")
			if stream == streams.SiteReported {
				at = streams.Reported("plant-a")
				publish = func(i int) {
					m := pod(fmt.Sprintf("pod-%d", i), 1)
					if _, err := streams.Put(ctx, s.js, streams.LocalReportedSubject(m.Ref), m); err != nil {
						t.Error(err)
					}
				}
			}
			publish(0)
			polltest.Eventually(t, "the first one is at the hub", func() bool { return count(t, ctx, s.hub, at) == 1 })
			c, err := s.js.Consumer(ctx, stream, streams.ForwardConsumer)
			if err != nil {
				t.Fatal(err)
			}
			// The request of this thief waits behind the forwarder's, which waits behind it from then on.
			stolen := make(chan jetstream.Msg, 1)
			go func() {
				m, err := c.Next(jetstream.FetchMaxWait(20 * time.Second))
				if err != nil {
					t.Errorf("steal a message: %v", err)
				}
				stolen <- m
				close(stolen)
			}()
			polltest.Eventually(t, "two requests wait", func() bool {
				i, err := c.Info(ctx)
				return err == nil && i.NumWaiting == 2
			})
			publish(1) // the forwarder's
			publish(2) // the thief's
			late := <-stolen
			if late == nil {
				t.FailNow()
			}
			publish(3)
			const n = 4
			polltest.Eventually(t, "a later one is delivered", func() bool {
				i, err := c.Info(ctx)
				return err == nil && i.Delivered.Stream == n
			})
			_ = late.Nak() // fails if the forwarder has begun a session meanwhile
			polltest.Eventually(t, "all are at the hub", func() bool { return count(t, ctx, s.hub, at) >= n })
			if got := count(t, ctx, s.hub, at); got != n {
				t.Errorf("the hub has %d messages, want %d", got, n)
			}
			if stream == streams.SiteTelemetry {
				if missing := checkAccount(t, s.stored(t, ctx), n); missing > 0 {
					t.Errorf("%d records that exist are in gaps", missing)
				}
			}
		})
	}
}

// TestRecordsWaitWhileNobodyAnswers has a hub without streams for the site, as before its Site
// exists: what the forwarder sends is acknowledged by nobody, stays at the site, is counted as
// waiting, and arrives once there are streams.
func TestRecordsWaitWhileNobodyAnswers(t *testing.T) {
	t.Parallel()
	s, ctx := newSite(t)
	if err := s.hub.DeleteStream(ctx, streams.Telemetry("plant-a")); err != nil {
		t.Fatal(err)
	}
	sent, err := s.bridge.SubscribeSync(streams.TelemetryFilter("plant-a"))
	if err != nil {
		t.Fatal(err)
	}
	s.start(t, ctx)
	const records = 20
	for i := range records {
		if _, err := s.js.Publish(ctx, streams.LocalTelemetrySubject("sample", "default", "pump"), fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := sent.NextMsgWithContext(ctx); err != nil {
		t.Fatal(err)
	}
	if err := sent.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	c, err := s.js.Consumer(ctx, streams.SiteTelemetry, streams.ForwardConsumer)
	if err != nil {
		t.Fatal(err)
	}
	if info := c.CachedInfo(); info.AckFloor.Stream != 0 || info.NumPending+uint64(info.NumAckPending) != records {
		t.Errorf("%d of %d records wait, %d are acknowledged", info.NumPending+uint64(info.NumAckPending), records, info.AckFloor.Stream)
	}
	if err := streams.Ensure(ctx, s.hub, streams.SiteStreams("plant-a", streams.SiteLimits{})); err != nil {
		t.Fatal(err)
	}
	polltest.Eventually(t, "all records at the hub", func() bool { return count(t, ctx, s.hub, streams.Telemetry("plant-a")) >= records })
	if got := count(t, ctx, s.hub, streams.Telemetry("plant-a")); got != records {
		t.Errorf("the hub has %d records, want %d", got, records)
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
	polltest.Eventually(t, "state at the hub", func() bool { return count(t, ctx, s.hub, streams.Reported("plant-a")) == 1 })
	hub, err := s.hub.Stream(ctx, streams.Reported("plant-a"))
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

// TestFullReportsDoNotHoldUpOthers has a hub with room for six messages of the site's reports: a
// large report is refused and kept, through a restart as well, new states of the others arrive, and
// it arrives when there is room.
func TestFullReportsDoNotHoldUpOthers(t *testing.T) {
	t.Parallel()
	s, ctx := startSite(t)
	respond(t, s)
	hub, err := s.hub.Stream(ctx, streams.Reported("plant-a"))
	if err != nil {
		t.Fatal(err)
	}
	room := func(messages int64) {
		t.Helper()
		cfg := hub.CachedInfo().Config
		cfg.MaxMsgs, cfg.Discard = messages, jetstream.DiscardNew
		if _, err := s.hub.UpdateStream(ctx, cfg); err != nil {
			t.Fatal(err)
		}
	}
	ref := func(name string) streams.Ref {
		return streams.Ref{Node: "n", Resource: "pods", Namespace: "default", Name: name}
	}
	put := func(name, content string) {
		t.Helper()
		m := streams.Message{Ref: ref(name), Op: streams.OpPut, UID: "u", Object: fmt.Appendf(nil, `{"metadata":{"name":%q,"uid":"u"},"content":%q}`, name, content)}
		if _, err := streams.Put(ctx, s.js, streams.LocalReportedSubject(m.Ref), m); err != nil {
			t.Fatal(err)
		}
	}
	arrived := func(name, content string) bool {
		raw, err := hub.GetLastMsgForSubject(ctx, streams.ReportedSubject("plant-a", ref(name)))
		if err != nil {
			return false
		}
		_, m, err := streams.Load(ctx, hub, raw.Subject, raw.Header, raw.Data)
		return err == nil && strings.Contains(string(m.Object), fmt.Sprintf(`"content":%q`, content))
	}
	room(6)
	for i := range 6 {
		put(fmt.Sprint("small-", i), "first")
	}
	for i := range 6 {
		polltest.Eventually(t, fmt.Sprint("small-", i), func() bool { return arrived(fmt.Sprint("small-", i), "first") })
	}
	large := strings.Repeat("x", 3*streams.PartBytes)
	put("large", large)
	put("small-0", "second")
	polltest.Eventually(t, "a new state behind the large report", func() bool { return arrived("small-0", "second") })
	refused := func() bool { return counted(t, s, "petiole_leaf_reports_refused_total") >= 2 }
	polltest.Eventually(t, "two tries", refused)
	s.stop()
	s.start(t, ctx)
	put("small-1", "third")
	polltest.Eventually(t, "small-1 after a restart", func() bool { return arrived("small-1", "third") })
	if arrived("large", large) {
		t.Fatal("the large report was stored beyond the limit")
	}
	room(20)
	polltest.Eventually(t, "the large report", func() bool { return arrived("large", large) })
	polltest.Eventually(t, "nothing waits", func() bool {
		return count(t, ctx, s.hub, streams.Reported("plant-a")) == 11 && s.unforwarded(t, ctx) == 0
	})
}

// unforwarded returns the number of messages of SITE_REPORTED that the hub has not acknowledged.
func (s *site) unforwarded(t *testing.T, ctx context.Context) uint64 {
	t.Helper()
	c, err := s.js.Consumer(ctx, streams.SiteReported, streams.ForwardConsumer)
	if err != nil {
		t.Fatal(err)
	}
	return c.CachedInfo().NumPending + uint64(c.CachedInfo().NumAckPending)
}

// TestBacklogIsSeenBeforeTheLinkIsUp restarts a leaf whose link is cut: its consumer counts what
// waits. The consumer that an earlier version left on disk is replaced, and nothing is sent twice.
func TestBacklogIsSeenBeforeTheLinkIsUp(t *testing.T) {
	t.Parallel()
	s, ctx := startSite(t)
	respond(t, s)
	s.up(t)
	for i := range 5 {
		s.record(t, ctx, i, 10)
	}
	s.acknowledged(t, ctx, 5)
	s.cut(t)
	for i := 5; i < 8; i++ {
		s.record(t, ctx, i, 10)
	}
	waiting := func(want uint64) {
		t.Helper()
		polltest.Eventually(t, "a consumer in memory that counts what waits", func() bool {
			c, err := s.js.Consumer(ctx, streams.SiteTelemetry, streams.ForwardConsumer)
			return err == nil && c.CachedInfo().Config.MemoryStorage && c.CachedInfo().NumPending == want
		})
	}
	s.restart(t, ctx, nil)
	waiting(3)
	stream, err := s.js.Stream(ctx, streams.SiteTelemetry)
	if err != nil {
		t.Fatal(err)
	}
	onDisk := streams.LocalConsumer(streams.ForwardConsumer, "of an earlier version", 512)
	onDisk.DeliverPolicy, onDisk.OptStartSeq = jetstream.DeliverByStartSequencePolicy, 7
	if err := stream.DeleteConsumer(ctx, streams.ForwardConsumer); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.CreateConsumer(ctx, onDisk); err != nil {
		t.Fatal(err)
	}
	s.restart(t, ctx, nil)
	waiting(2)
	s.line.Heal()
	polltest.Eventually(t, "all", func() bool { return count(t, ctx, s.hub, streams.Telemetry("plant-a")) >= 7 })
}
