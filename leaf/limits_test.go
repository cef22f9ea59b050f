package leaf

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/inventory"
)

// TestMaxPayloadDiffers has a hub that takes larger messages than the leaf, and one that takes
// smaller ones: objects of every size cross in both directions, an inventory that differs in
// everything is compared, and the link is never lost.
func TestMaxPayloadDiffers(t *testing.T) {
	t.Parallel()
	for name, settings := range map[string]string{"hub 8 MB, leaf 1 MB": "max_payload: 8MB", "hub 16 kB, leaf 1 MB": "max_payload: 16KB"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, ctx := newSiteAt(t, settings)
			s.start(t, ctx)
			b := respond(t, s)
			s.up(t)
			_, since, _ := s.link.State()
			putDesired(t, ctx, s, "large", noise(1_300_000))
			putDesired(t, ctx, s, "small", 1)
			polltest.Eventually(t, "everything is at the site", func() bool { return backlog(t, ctx, s) == 0 && same(t, ctx, s) })
			report := pod("web", 1)
			report.Object = fmt.Appendf(nil, `{"metadata":{"name":"web","uid":"u-web"},"status":{"message":%q}}`, noise(1_300_000))
			if _, err := streams.Put(ctx, s.js, streams.LocalReportedSubject(report.Ref), report); err != nil {
				t.Fatal(err)
			}
			polltest.Eventually(t, "the report is at the hub", func() bool {
				hub, err := s.hub.Stream(ctx, streams.Reported("plant-a"))
				if err != nil {
					return false
				}
				_, err = hub.GetLastMsgForSubject(ctx, streams.ReportedSubject("plant-a", report.Ref))
				return err == nil
			})
			polltest.Eventually(t, "the size of messages is known", func() bool { return s.check.MaxPayload() == int(min(s.nc.MaxPayload(), s.bridge.MaxPayload())) })
			for i := range 60 {
				m := configMap(fmt.Sprintf("extra-%d", i), strings.Repeat("x", 100))
				if _, err := streams.Put(ctx, s.js, streams.DesiredSubject("plant-a", m.Ref), m); err != nil {
					t.Fatal(err)
				}
			}
			equal := b.seen(inventory.Equal)
			s.verify(t)
			polltest.Eventually(t, "the inventories are equal again", func() bool { return b.seen(inventory.Equal) > equal && same(t, ctx, s) })
			if _, now, _ := s.link.State(); now != since {
				t.Error("the link was lost")
			}
		})
	}
}

// TestRecordLargerThanTheHubTakes has a record above the hub's max_payload between small ones: it
// is set aside and named, a gap takes its place, the others arrive and the link is not lost.
func TestRecordLargerThanTheHubTakes(t *testing.T) {
	t.Parallel()
	s, ctx := newSiteAt(t, "max_payload: 64KB")
	s.start(t, ctx)
	respond(t, s)
	s.up(t)
	polltest.Eventually(t, "the size of messages is known", func() bool { return s.check.MaxPayload() == 64<<10 })
	_, since, _ := s.link.State()
	record(t, ctx, s, 300, 200_000, 300)
	polltest.Eventually(t, "two records and a gap are at the hub", func() bool { return arrived(t, ctx, s) == 3 })
	if _, now, _ := s.link.State(); now != since {
		t.Error("the link was lost")
	}
	expectAside(t, ctx, s, "bytes are more than max_payload, 65536")
}

// TestRecordLargerThanTheLineCarries has a record that takes the line longer than the two ends
// wait for a pong: after some attempts it is set aside, and the others arrive.
func TestRecordLargerThanTheLineCarries(t *testing.T) {
	t.Parallel()
	// A machine that tests other packages as well answers later than 300 ms.
	s, ctx := newSiteAt(t, `ping_interval: "600ms"`)
	s.configure(t, `"4s"`, `"600ms"`)
	s.start(t, ctx)
	respond(t, s)
	s.up(t)
	s.cut(t)
	record(t, ctx, s, 300, 60_000, 300)
	s.slow(t, 128*kbit)
	polltest.Within(t, 3*time.Minute, "two records and a gap are at the hub", func() bool { return arrived(t, ctx, s) == 3 })
	expectAside(t, ctx, s, "did not carry", strconv.Itoa(5))
}

// record stores telemetry of these sizes at the site.
func record(t *testing.T, ctx context.Context, s *site, sizes ...int) {
	t.Helper()
	for _, size := range sizes {
		if _, err := s.js.Publish(ctx, streams.LocalTelemetrySubject("sample", "default", "pump"), []byte(noise(size)), jetstream.WithRetryAttempts(3)); err != nil {
			t.Fatal(err)
		}
	}
}

// expectAside checks that one record is in SITE_QUARANTINE, and that the hub has a gap for it.
func expectAside(t *testing.T, ctx context.Context, s *site, why ...string) {
	t.Helper()
	what := s.telemetry.Aside.Last()
	for _, w := range append(why, "local.telemetry.sample.default.pump") {
		if !strings.Contains(what, w) {
			t.Errorf("the leaf reports %q, want %q in it", what, w)
		}
	}
	if n := count(t, ctx, s.js, streams.SiteQuarantine); n != 1 {
		t.Errorf("%d records are in %s", n, streams.SiteQuarantine)
	}
	hub, err := s.hub.Stream(ctx, streams.Telemetry("plant-a"))
	if err != nil {
		t.Fatal(err)
	}
	gap, err := hub.GetLastMsgForSubject(ctx, streams.TelemetrySubject("plant-a", streams.GapKind, streams.SiteTelemetry))
	if err != nil || !strings.Contains(string(gap.Data), `"from":2,"to":2,"reason":"setAside"`) {
		t.Errorf("the gap at the hub is %v, %v", gap, err)
	}
}
