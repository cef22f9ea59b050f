package leaf

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/leaf/desired"
	"github.com/petiole-io/petiole/leaf/replicate"
	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/inventory"
)

// quick makes checks follow one another fast enough for a test, and no check by itself.
var quick = replicate.Pace{Interval: time.Hour, Retry: 200 * time.Millisecond, Repeat: 50 * time.Millisecond}

// startChecked is a site that has stored and compared objects.
func startChecked(t *testing.T, objects int) (*site, context.Context, *responder) {
	t.Helper()
	return startPaced(t, objects, quick)
}

func startPaced(t *testing.T, objects int, pace replicate.Pace) (*site, context.Context, *responder) {
	t.Helper()
	s, ctx := newSite(t)
	s.pace = pace
	b := respond(t, s)
	for i := range objects {
		putDesired(t, ctx, s, fmt.Sprintf("cm-%d", i), i)
	}
	s.start(t, ctx)
	polltest.Eventually(t, "first comparison", func() bool { return b.seen(inventory.Equal) > 0 })
	// The deliveries from before the session's reset may have begun a run of their own.
	for last, since := 0, time.Now(); time.Since(since) < 300*time.Millisecond; time.Sleep(5 * time.Millisecond) {
		if n := b.seen(inventory.Equal); n != last {
			last, since = n, time.Now()
		}
	}
	b.set(func() { b.states, b.queries = nil, nil })
	return s, ctx, b
}

func (s *site) verify(t testing.TB) {
	t.Helper()
	msg := nats.NewMsg(streams.SyncSubject("plant-a"))
	msg.Header.Set(streams.HeaderControl, streams.ControlVerify)
	if err := s.bridge.PublishMsg(msg); err != nil {
		t.Fatal(err)
	}
}

func (s *site) desired(t testing.TB, ctx context.Context) jetstream.Stream {
	t.Helper()
	d, err := s.js.Stream(ctx, streams.SiteDesired)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestInventoryFindsWhatIsMissing removes and changes messages of the leaf's store behind
// its back: the next comparison brings them back.
func TestInventoryFindsWhatIsMissing(t *testing.T) {
	t.Parallel()
	s, ctx, b := startChecked(t, 50)
	d := s.desired(t, ctx)
	find := func(name string) *jetstream.RawStreamMsg {
		t.Helper()
		ref := streams.Ref{Resource: "configmaps", Namespace: "default", Name: name}
		m, err := d.GetLastMsgForSubject(ctx, streams.DesiredSubject("plant-a", ref))
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	for _, name := range []string{"cm-3", "cm-17"} {
		if err := d.DeleteMsg(ctx, find(name).Sequence); err != nil {
			t.Fatal(err)
		}
	}
	old := find("cm-25")
	other := nats.NewMsg(old.Subject)
	other.Header.Set(streams.HeaderOp, string(streams.OpPut))
	other.Header.Set(streams.HeaderVersion, "stale")
	other.Header.Set(streams.HeaderSource, streams.HubPosition{Seq: 50, Identity: "x"}.String())
	other.Data = []byte("stale")
	if _, err := s.js.PublishMsg(ctx, other); err != nil {
		t.Fatal(err)
	}
	s.verify(t)
	polltest.Eventually(t, "repair", func() bool { return b.seen(inventory.Equal) == 1 && same(t, ctx, s) })
	if b.seen(inventory.Repairing) != 1 {
		t.Errorf("%d repairs, want 1", b.seen(inventory.Repairing))
	}
}

// TestInventoryFindsMissingParts removes a part of a large object behind the leaf's back.
func TestInventoryFindsMissingParts(t *testing.T) {
	t.Parallel()
	s, ctx, b := startChecked(t, 3)
	putDesired(t, ctx, s, "large", strings.Repeat("x", 200<<10)) // in parts of 8 KiB
	polltest.Eventually(t, "large object", func() bool { return same(t, ctx, s) })
	d := s.desired(t, ctx)
	part, err := d.GetLastMsgForSubject(ctx, streams.DesiredSubject("plant-a", configMap("large", 0).Ref)+".=part.1")
	if err != nil {
		t.Fatal(err)
	}
	if err := d.DeleteMsg(ctx, part.Sequence); err != nil {
		t.Fatal(err)
	}
	s.verify(t)
	polltest.Eventually(t, "repair", func() bool { return b.seen(inventory.Repairing) == 1 && same(t, ctx, s) })
	raw, err := d.GetLastMsgForSubject(ctx, streams.ObjectSubject(part.Subject))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := streams.Load(ctx, d, raw.Subject, raw.Header, raw.Data); err != nil {
		t.Errorf("the repaired object: %v", err)
	}
}

// TestInventoryRemovesZombies finds an object at the site that nobody wants there.
func TestInventoryRemovesZombies(t *testing.T) {
	t.Parallel()
	s, ctx, b := startChecked(t, 5)
	ref := streams.Ref{Node: "plant-a-1", Resource: "pods", Namespace: "default", Name: "zombie"}
	m := streams.Message{Ref: ref, Op: streams.OpPut, UID: "z", Object: []byte(`{"metadata":{"name":"zombie","uid":"z"}}`)}
	msg := m.Encode(streams.DesiredSubject("plant-a", ref))
	msg.Header.Set(streams.HeaderSource, streams.HubPosition{Seq: 5, Identity: "x"}.String())
	if _, err := s.js.PublishMsg(ctx, msg); err != nil {
		t.Fatal(err)
	}
	s.verify(t)
	polltest.Eventually(t, "tombstone", func() bool {
		last, err := s.desired(t, ctx).GetLastMsgForSubject(ctx, msg.Subject)
		return err == nil && last.Header.Get(streams.HeaderOp) == string(streams.OpDelete) && last.Header.Get(streams.HeaderUID) == "z"
	})
	polltest.Eventually(t, "equal", func() bool { return b.seen(inventory.Equal) == 1 })
}

// TestVerifyDoesNotEndTheSession lets the bridge ask in the middle of deliveries.
func TestVerifyDoesNotEndTheSession(t *testing.T) {
	t.Parallel()
	s, ctx, b := startChecked(t, 5)
	rewinds, began := counted(t, s, "petiole_leaf_rewinds_total"), backlogStart(t, ctx, s)
	for i := range 300 {
		putDesired(t, ctx, s, "x", i)
		if i%10 == 0 {
			s.verify(t)
		}
	}
	polltest.Eventually(t, "convergence", func() bool { return backlog(t, ctx, s) == 0 && same(t, ctx, s) })
	polltest.Eventually(t, "comparison", func() bool { return b.seen(inventory.Equal) > 0 })
	if got := backlogStart(t, ctx, s); got < began {
		t.Errorf("the hub numbers deliveries from 1 again: %d after %d", got, began)
	}
	if got := counted(t, s, "petiole_leaf_rewinds_total"); got != rewinds {
		t.Errorf("%v rewinds", got)
	}
}

// backlogStart is the number of the last delivery since the consumer was reset.
func backlogStart(t *testing.T, ctx context.Context, s *site) int {
	t.Helper()
	c, err := s.hub.Consumer(ctx, streams.Desired, "plant-a")
	if err != nil {
		t.Fatal(err)
	}
	return int(c.CachedInfo().Delivered.Consumer)
}

// counted is the sum of a counter over its labels.
func counted(t *testing.T, s *site, name string) (sum float64) {
	t.Helper()
	families, err := s.leaf.counts.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// TestCheckFollowsARewind rolls the store back: after it was asked for again, the
// inventories are compared.
func TestCheckFollowsARewind(t *testing.T) {
	t.Parallel()
	s, ctx, b := startChecked(t, 30)
	s.cut(t)
	last := lastSeq(t, ctx, s)
	rollback(t, ctx, s, s.desired(t, ctx).CachedInfo().Config, last-7)
	s.line.Heal()
	polltest.Eventually(t, "comparison", func() bool { return b.seen(inventory.Equal) >= 1 && same(t, ctx, s) })
	if counted(t, s, "petiole_leaf_rewinds_total") != 1 {
		t.Errorf("%v rewinds, want 1", counted(t, s, "petiole_leaf_rewinds_total"))
	}
}

// TestCheckFollowsAResync resets the site's consumer at the hub to its beginning, as the
// bridge does for a full resync: everything comes again, and a zombie goes.
func TestCheckFollowsAResync(t *testing.T) {
	t.Parallel()
	s, ctx, b := startChecked(t, 30)
	ref := streams.Ref{Node: "plant-a-1", Resource: "pods", Namespace: "default", Name: "zombie"}
	zombie := streams.Message{Ref: ref, Op: streams.OpPut, UID: "z"}.Encode(streams.DesiredSubject("plant-a", ref))
	zombie.Header.Set(streams.HeaderSource, streams.HubPosition{Seq: 30, Identity: "x"}.String())
	if _, err := s.js.PublishMsg(ctx, zombie); err != nil {
		t.Fatal(err)
	}
	hub, err := s.hub.Stream(ctx, streams.Desired)
	if err != nil {
		t.Fatal(err)
	}
	before, resyncs := lastSeq(t, ctx, s), counted(t, s, "petiole_leaf_resyncs_total")
	if _, err := hub.ResetConsumerToSequence(ctx, "plant-a", 1); err != nil {
		t.Fatal(err)
	}
	polltest.Eventually(t, "everything again", func() bool { return lastSeq(t, ctx, s) >= before+30 })
	polltest.Eventually(t, "comparison", func() bool { return b.seen(inventory.Repairing) == 1 && b.seen(inventory.Equal) == 1 })
	if got := counted(t, s, "petiole_leaf_resyncs_total") - resyncs; got != 1 {
		t.Errorf("%v resyncs, want 1", got)
	}
}

// TestDeliveriesDoNotWaitForTheInventory has a bridge that takes two seconds to answer.
func TestDeliveriesDoNotWaitForTheInventory(t *testing.T) {
	s, ctx, b := startChecked(t, 5)
	b.set(func() { b.delay = 2 * time.Second })
	s.verify(t)
	start := time.Now()
	putDesired(t, ctx, s, "x", 1)
	polltest.Eventually(t, "delivery", func() bool { return backlog(t, ctx, s) == 0 && same(t, ctx, s) })
	if took := time.Since(start); took > time.Second {
		t.Errorf("a delivery waited %s for a comparison", took)
	}
}

// TestCheckIsBounded has a bridge that says that it repairs and does nothing: the leaf
// asks so often, and then waits.
func TestCheckIsBounded(t *testing.T) {
	t.Parallel()
	s, ctx, b := startPaced(t, 5, replicate.Pace{Interval: time.Hour, Retry: time.Hour, Repeat: time.Millisecond})
	b.set(func() { b.idle = true })
	s.verify(t)
	polltest.Eventually(t, "a full check", func() bool { return b.seen(inventory.Repairing) == replicate.MaxComparisons })
	s.verify(t)
	polltest.Eventually(t, "another when told to", func() bool { return b.seen(inventory.Repairing) == 2*replicate.MaxComparisons })
	b.set(func() { b.idle = false })
	s.verify(t)
	polltest.Eventually(t, "equal", func() bool { return b.seen(inventory.Equal) == 1 && same(t, ctx, s) })
}

// TestStuckSessionBeginsAnew takes the end of the store away while the session goes on:
// the hub has delivered what the bridge misses, so only another session can ask again.
func TestStuckSessionBeginsAnew(t *testing.T) {
	t.Parallel()
	s, ctx, b := startChecked(t, 20)
	d := s.desired(t, ctx)
	for seq := lastSeq(t, ctx, s); seq > 5; seq-- {
		if err := d.DeleteMsg(ctx, seq); err != nil {
			break // below are those of a run before the session's reset
		}
	}
	s.verify(t)
	polltest.Eventually(t, "repair", func() bool { return b.seen(inventory.Equal) > 0 && same(t, ctx, s) })
	if counted(t, s, "petiole_leaf_rewinds_total") == 0 {
		t.Error("nothing was asked for again")
	}
}

// TestInventoryOfManyObjects has 250 objects at the site that nobody wants, whose entries do
// not fit into one message of 64 KiB: they go in several steps.
func TestInventoryOfManyObjects(t *testing.T) {
	t.Parallel()
	const objects = 250
	s, ctx, b := startChecked(t, 10)
	s.stop()
	s.configure(t, "ping_max: 2", "ping_max: 2\nmax_payload: 65536")
	s.start(t, ctx)
	for i := range objects {
		putDesiredAsync(t, s, fmt.Sprintf("a-config-map-with-a-name-that-takes-some-room-in-a-message-%d-%060d", i, i), i)
	}
	polltest.Eventually(t, "objects", func() bool {
		return backlog(t, ctx, s) == 0 && count(t, ctx, s.js, streams.SiteDesired) == objects+10
	})
	polltest.Eventually(t, "comparison", func() bool { return b.seen(inventory.Equal) > 0 })
	b.set(func() { b.states, b.queries = nil, nil })
	hub, err := s.hub.Stream(ctx, streams.Desired)
	if err != nil {
		t.Fatal(err)
	}
	if err := hub.Purge(ctx, jetstream.WithPurgeKeep(1)); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	s.verify(t)
	polltest.Eventually(t, "repair", func() bool { return b.seen(inventory.Equal) >= 1 })
	t.Logf("took %d objects away in %s, %d queries", objects, time.Since(start).Round(time.Millisecond), len(b.queries))
	if b.seen(inventory.Repairing) < 2 {
		t.Errorf("%d repairs: all fitted into one message", b.seen(inventory.Repairing))
	}
	m, err := desired.Inventory(ctx, s.desired(t, ctx), "plant-a")
	if err != nil || m.Count() != 1 {
		t.Errorf("%d objects are left, want 1 (%v)", m.Count(), err)
	}
}

func putDesiredAsync(t *testing.T, s *site, name string, value int) {
	t.Helper()
	m := configMap(name, value)
	if _, err := s.hub.PublishMsgAsync(m.Encode(streams.DesiredSubject("plant-a", m.Ref)), jetstream.WithStallWait(10*time.Second)); err != nil {
		t.Fatal(err)
	}
}
