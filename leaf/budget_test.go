package leaf

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/traffic"
)

// budgeted is a site whose level is set by the test.
func budgeted(t *testing.T, level traffic.Level) (s *site, ctx context.Context, set func(traffic.Level)) {
	t.Helper()
	var now atomic.Value
	now.Store(level)
	s, ctx = newSite(t)
	s.level, s.thin = func() traffic.Level { return now.Load().(traffic.Level) }, time.Hour
	respond(t, s)
	s.start(t, ctx)
	s.up(t)
	return s, ctx, func(l traffic.Level) { now.Store(l) }
}

// storeRecords stores records of a kind about devices at the site, one after the other.
func storeRecords(t *testing.T, ctx context.Context, s *site, kind string, devices ...string) {
	t.Helper()
	for _, d := range devices {
		if _, err := s.js.Publish(ctx, streams.LocalTelemetrySubject(kind, "default", d), []byte(`{"device":"`+d+`"}`), jetstream.WithRetryAttempts(3)); err != nil {
			t.Fatal(err)
		}
	}
}

// hubHas returns what the hub has of the site's records, as sequences of the site's stream: "5" for a
// record, "1-4 budget" for those that a gap record names.
func hubHas(t *testing.T, ctx context.Context, s *site) (out []string) {
	t.Helper()
	stream, err := s.hub.Stream(ctx, streams.Telemetry("plant-a"))
	if err != nil {
		t.Fatal(err)
	}
	for seq := uint64(1); ; seq++ {
		m, err := stream.GetMsg(ctx, seq)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		var gap streams.Gap
		if err := json.Unmarshal(m.Data, &gap); err == nil && gap.Stream != "" {
			out = append(out, fmt.Sprintf("%d-%d %s", gap.From, gap.To, gap.Reason))
			continue
		}
		id, err := streams.ParseForwardID(m.Header.Get(nats.MsgIdHdr))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, fmt.Sprint(id.Seq))
	}
}

func awaitHub(t *testing.T, ctx context.Context, s *site, want ...string) {
	t.Helper()
	polltest.Eventually(t, "at the hub: "+strings.Join(want, ", "), func() bool { return slices.Equal(hubHas(t, ctx, s), want) })
}

// TestSamplesAreThinned has a site whose samples are over its budget: the newest of each device is sent,
// a gap record names the others, which stay at the site, and a result of a command does not wait for
// them. When there is budget again, all that follow are sent.
func TestSamplesAreThinned(t *testing.T) {
	t.Parallel()
	s, ctx, set := budgeted(t, traffic.SamplesWait)
	storeRecords(t, ctx, s, streams.SampleKind, "pump", "pump", "fan", "pump", "pump")
	storeRecords(t, ctx, s, "audit", "fan") // 6
	awaitHub(t, ctx, s, "1-2 budget", "3", "4-4 budget", "5", "6")
	storeRecords(t, ctx, s, streams.SampleKind, "pump", "fan", "valve", "pump") // 7 to 10 wait
	if has := hubHas(t, ctx, s); len(has) != 5 {
		t.Errorf("samples do not wait: %v", has)
	}
	polltest.Eventually(t, "the acknowledgement", func() bool { return pending(t, ctx, s, streams.SiteTelemetry) == 4 })
	set(traffic.SamplesThinned)              // an hour after the last time
	storeRecords(t, ctx, s, "other", "pump") // 11, of a kind that the leaf does not know, is sent with the next
	storeRecords(t, ctx, s, "audit", "pump") // 12
	awaitHub(t, ctx, s, "1-2 budget", "3", "4-4 budget", "5", "6", "7-7 budget", "8", "9", "10", "11", "12")
	storeRecords(t, ctx, s, streams.SampleKind, "pump", "pump") // 13, 14
	set(traffic.Within)
	awaitHub(t, ctx, s, "1-2 budget", "3", "4-4 budget", "5", "6", "7-7 budget", "8", "9", "10", "11", "12", "13", "14")
	if n := count(t, ctx, s.js, streams.SiteTelemetry); n != 14 {
		t.Errorf("%d records are at the site, want all 14", n)
	}
	if n := gather(t, s, "petiole_leaf_records_thinned_total"); n != 4 {
		t.Errorf("%v samples are counted as thinned, want 4", n)
	}
}

// TestThinnedSamplesSurviveARestart ends the leaf between two thinned parts, and while samples wait.
func TestThinnedSamplesSurviveARestart(t *testing.T) {
	t.Parallel()
	s, ctx, set := budgeted(t, traffic.SamplesThinned) // the first part at once
	storeRecords(t, ctx, s, streams.SampleKind, "pump")
	awaitHub(t, ctx, s, "1")
	storeRecords(t, ctx, s, streams.SampleKind, "pump", "pump")
	s.restart(t, ctx, nil)
	s.up(t)
	awaitHub(t, ctx, s, "1", "2-2 budget", "3")
	storeRecords(t, ctx, s, streams.SampleKind, "fan", "pump")
	s.restart(t, ctx, nil)
	set(traffic.Within)
	awaitHub(t, ctx, s, "1", "2-2 budget", "3", "4", "5")
}

// TestReportsWait has a site that has used all of its budget: status waits, of which the newest is sent
// when there is budget again, and desired state does not.
func TestReportsWait(t *testing.T) {
	t.Parallel()
	s, ctx, set := budgeted(t, traffic.ReportsWait)
	report := func(name string, version int) { storeReport(t, ctx, s, "pods", name, version) }
	for version := range 20 {
		report("web", version)
	}
	putDesired(t, ctx, s, "cm", "value")
	polltest.Eventually(t, "desired state", func() bool { return same(t, ctx, s) && backlog(t, ctx, s) == 0 })
	if n := count(t, ctx, s.hub, streams.Reported("plant-a")); n != 0 {
		t.Errorf("%d reports are at the hub, want none", n)
	}
	set(traffic.SamplesWait)
	polltest.Eventually(t, "the newest report", func() bool { return count(t, ctx, s.hub, streams.Reported("plant-a")) > 0 })
	stream, err := s.hub.Stream(ctx, streams.Reported("plant-a"))
	if err != nil {
		t.Fatal(err)
	}
	if state := stream.CachedInfo().State; state.Msgs != 1 || state.LastSeq != 1 {
		t.Errorf("the hub has %d reports up to %d, want the newest alone", state.Msgs, state.LastSeq)
	}
}

// storeReport stores a report about an object at the site.
func storeReport(t *testing.T, ctx context.Context, s *site, resource, name string, version int) {
	t.Helper()
	ref := streams.Ref{Node: "n", Resource: resource, Namespace: "default", Name: name}
	m := streams.Message{Ref: ref, Op: streams.OpPut, UID: "u", Object: fmt.Appendf(nil, `{"metadata":{"name":%q},"status":{"message":"%d"}}`, name, version)}
	if _, err := streams.Put(ctx, s.js, streams.LocalReportedSubject(ref), m); err != nil {
		t.Fatal(err)
	}
}

// reportsAt returns the names of the reported objects that a stream has, in order.
func reportsAt(t *testing.T, ctx context.Context, js jetstream.JetStream, stream string) (names []string) {
	t.Helper()
	st, err := js.Stream(ctx, stream)
	if err != nil {
		t.Fatal(err)
	}
	for seq := uint64(1); ; {
		m, err := st.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(">"))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		names, seq = append(names, m.Subject[strings.LastIndexByte(m.Subject, '.')+1:]), m.Sequence+1
	}
}

// TestStatusBeforeEvents has a site that has used nine tenths of its budget: status is sent, and the
// Events before it wait, also after the leaf has ended and another hub position is known. When there is
// budget again, they are sent in their order, in their newest version, and once each.
func TestStatusBeforeEvents(t *testing.T) {
	t.Parallel()
	s, ctx, set := budgeted(t, traffic.SamplesWait)
	hubHasReports := func(want ...string) {
		t.Helper()
		polltest.Eventually(t, "reports at the hub: "+strings.Join(want, ", "), func() bool { return slices.Equal(reportsAt(t, ctx, s.hub, streams.Reported("plant-a")), want) })
	}
	for _, name := range []string{"started", "pulled", "killed"} {
		storeReport(t, ctx, s, "events", name, 1)
	}
	storeReport(t, ctx, s, "pods", "web", 1)
	hubHasReports("web")
	set(traffic.ReportsWait)
	storeReport(t, ctx, s, "events", "pulled", 2)
	storeReport(t, ctx, s, "pods", "db", 1)
	s.restart(t, ctx, nil)
	s.up(t)
	set(traffic.SamplesWait)
	hubHasReports("web", "db")
	set(traffic.Within)
	hubHasReports("web", "db", "started", "killed", "pulled")
	storeReport(t, ctx, s, "events", "created", 1)
	hubHasReports("web", "db", "started", "killed", "pulled", "created")
	stream, err := s.hub.Stream(ctx, streams.Reported("plant-a"))
	if err != nil {
		t.Fatal(err)
	}
	if state := stream.CachedInfo().State; state.LastSeq != 6 {
		t.Errorf("the hub has stored %d reports, want each of the 6 once", state.LastSeq)
	}
}

// TestEventsThatWaitSurviveAKill has the leaf killed while it stores Events again: those that it had
// stored, and those that it had not, are sent.
func TestEventsThatWaitSurviveAKill(t *testing.T) {
	t.Parallel()
	s, ctx, set := budgeted(t, traffic.SamplesWait)
	for _, name := range []string{"started", "pulled"} {
		storeReport(t, ctx, s, "events", name, 1)
	}
	storeReport(t, ctx, s, "pods", "web", 1)
	polltest.Eventually(t, "status at the hub", func() bool { return count(t, ctx, s.hub, streams.Reported("plant-a")) == 1 })
	s.cut(t)
	// What a leaf that is killed has done by then: one Event is stored again, the note is still there.
	storeReport(t, ctx, s, "events", "started", 1)
	s.restart(t, ctx, nil)
	set(traffic.Within)
	s.line.Restore()
	polltest.Eventually(t, "all reports at the hub", func() bool {
		return slices.Equal(reportsAt(t, ctx, s.hub, streams.Reported("plant-a")), []string{"web", "started", "pulled"}) || slices.Equal(reportsAt(t, ctx, s.hub, streams.Reported("plant-a")), []string{"web", "pulled", "started"})
	})
}

// pending returns how many messages of a stream the hub has not acknowledged.
func pending(t *testing.T, ctx context.Context, s *site, stream string) uint64 {
	t.Helper()
	c, err := s.js.Consumer(ctx, stream, streams.ForwardConsumer)
	if err != nil {
		t.Fatal(err)
	}
	return c.CachedInfo().NumPending + uint64(c.CachedInfo().NumAckPending)
}
