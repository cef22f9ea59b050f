package leaf

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/streams"
)

// configMap is an object for the site, with a value.
func configMap(name string, value any) streams.Message {
	return streams.Message{
		Ref: streams.Ref{Resource: "configmaps", Namespace: "default", Name: name}, Op: streams.OpPut, UID: "u-" + name,
		Object: fmt.Appendf(nil, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"namespace":"default","name":%q,"uid":%q},"data":{"v":"%v"}}`, name, "u-"+name, value),
	}
}

func putDesired(t testing.TB, ctx context.Context, s *site, name string, value any) {
	t.Helper()
	m := configMap(name, value)
	if _, err := streams.Put(ctx, s.hub, streams.DesiredSubject("plant-a", m.Ref), m); err != nil {
		t.Fatal(err)
	}
}

// backlog is what `nats consumer report DESIRED` shows of the site.
func backlog(t testing.TB, ctx context.Context, s *site) int {
	t.Helper()
	c, err := s.hub.Consumer(ctx, streams.Desired, "plant-a")
	if err != nil {
		t.Fatal(err)
	}
	i := c.CachedInfo()
	return int(i.NumPending) + i.NumAckPending
}

// same reports whether the leaf has exactly the hub's newest message of each subject.
func same(t *testing.T, ctx context.Context, s *site) bool {
	t.Helper()
	hub, err := s.hub.Stream(ctx, streams.Desired)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := s.js.Stream(ctx, streams.SiteDesired)
	if err != nil {
		t.Fatal(err)
	}
	info, err := hub.Info(ctx, jetstream.WithSubjectFilter(">"))
	if err != nil {
		t.Fatal(err)
	}
	for subject := range info.State.Subjects {
		want, err := hub.GetLastMsgForSubject(ctx, subject)
		if err != nil {
			t.Fatal(err)
		}
		got, err := leaf.GetLastMsgForSubject(ctx, subject)
		if err != nil || string(got.Data) != string(want.Data) {
			return false
		}
	}
	return true
}

// TestBacklogIsOneMessagePerObject cuts the line, changes two objects fifty times, and
// heals: two messages cross.
func TestBacklogIsOneMessagePerObject(t *testing.T) {
	t.Parallel()
	s, ctx := startSite(t)
	putDesired(t, ctx, s, "one", 0)
	polltest.Eventually(t, "first object", func() bool { return backlog(t, ctx, s) == 0 && same(t, ctx, s) })
	s.line.Cut()
	for i := range 50 {
		putDesired(t, ctx, s, "one", i)
		putDesired(t, ctx, s, "two", i)
	}
	polltest.Eventually(t, "backlog of two", func() bool { return backlog(t, ctx, s) == 2 })
	before := lastSeq(t, ctx, s)
	s.line.Heal()
	polltest.Eventually(t, "convergence", func() bool { return backlog(t, ctx, s) == 0 && same(t, ctx, s) })
	if got := lastSeq(t, ctx, s) - before; got != 2 {
		t.Errorf("%d messages crossed, want 2", got)
	}
}

// TestNothingIsLostInAFlap changes objects all the time while the line comes and goes,
// so that deliveries are under way at every cut: what the hub counts as acknowledged is
// at the leaf.
func TestNothingIsLostInAFlap(t *testing.T) {
	t.Parallel()
	s, ctx := startSite(t)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 2000 {
		putDesired(t, ctx, s, fmt.Sprintf("cm-%d", rng.IntN(150)), i)
		switch i % 200 {
		case 100:
			s.line.Cut()
		case 125:
			s.line.Heal()
		}
	}
	s.line.Heal()
	polltest.Eventually(t, "empty backlog", func() bool { return backlog(t, ctx, s) == 0 })
	if !same(t, ctx, s) {
		t.Fatal("the hub counts everything as acknowledged, but the leaf lacks some of it")
	}
}

// TestAnotherRequestTakesTheFirstDelivery has a request open at the hub whose answers do not reach
// the leaf, as one of before a reboot: what it takes arrives before the hub's usual heartbeat would
// have shown that it is missing.
func TestAnotherRequestTakesTheFirstDelivery(t *testing.T) {
	t.Parallel()
	s, ctx := newSite(t)
	inbox := s.bridge.NewInbox()
	taken, err := s.bridge.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	next := "$JS.API.CONSUMER.MSG.NEXT." + streams.Desired + ".plant-a"
	if err := s.bridge.PublishRequest(next, inbox, []byte(`{"batch":1,"expires":300000000000}`)); err != nil {
		t.Fatal(err)
	}
	s.start(t, ctx)
	polltest.Eventually(t, "both requests are open", func() bool {
		c, err := s.hub.Consumer(ctx, streams.Desired, "plant-a")
		return err == nil && c.CachedInfo().NumWaiting == 2
	})
	putDesired(t, ctx, s, "cm", 1)
	if _, err := taken.NextMsgWithContext(ctx); err != nil {
		t.Fatal(err)
	}
	polltest.Within(t, streams.SyncHeartbeat-4*time.Second, "the object at the site", func() bool { return same(t, ctx, s) })
}

// TestStoreRolledBack loses what the leaf had acknowledged, as a power cut without
// fsync does: it is asked for again.
func TestStoreRolledBack(t *testing.T) {
	t.Parallel()
	s, ctx := startSite(t)
	for i := range 20 {
		putDesired(t, ctx, s, fmt.Sprintf("cm-%d", i), i)
	}
	polltest.Eventually(t, "objects", func() bool { return backlog(t, ctx, s) == 0 && same(t, ctx, s) })
	s.line.Cut()
	polltest.Eventually(t, "link down", func() bool { up, _, _ := s.link.State(); return !up })
	leaf, err := s.js.Stream(ctx, streams.SiteDesired)
	if err != nil {
		t.Fatal(err)
	}
	last := lastSeq(t, ctx, s)
	rollback(t, ctx, s, leaf.CachedInfo().Config, last-7)
	s.line.Heal()
	polltest.Eventually(t, "convergence", func() bool { return same(t, ctx, s) })
}

// TestHubStreamRecreated deletes the hub's stream and consumer; what is published again
// arrives although its sequences start again.
func TestHubStreamRecreated(t *testing.T) {
	t.Parallel()
	s, ctx := startSite(t)
	for i := range 20 {
		putDesired(t, ctx, s, fmt.Sprintf("cm-%d", i), i)
	}
	polltest.Eventually(t, "objects", func() bool { return backlog(t, ctx, s) == 0 && same(t, ctx, s) })
	if err := s.hub.DeleteStream(ctx, streams.Desired); err != nil {
		t.Fatal(err)
	}
	if err := streams.Ensure(ctx, s.hub, streams.HubStreams(streams.HubLimits{})); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		putDesired(t, ctx, s, fmt.Sprintf("cm-%d", i), 100+i)
	}
	if err := streams.EnsureConsumer(ctx, s.hub, streams.Desired, streams.SiteConsumer("plant-a")); err != nil {
		t.Fatal(err)
	}
	polltest.Eventually(t, "convergence", func() bool { return backlog(t, ctx, s) == 0 && same(t, ctx, s) })
}

// TestHubStreamRecreatedIsFetchedOnce deletes the hub's stream while the link stays up:
// what the site stores of the new one is known by the new one's identity, so that the
// next session has nothing to fetch again.
func TestHubStreamRecreatedIsFetchedOnce(t *testing.T) {
	t.Parallel()
	const objects = 10
	s, ctx := startSite(t)
	put := func(generation int) {
		for i := range objects {
			putDesired(t, ctx, s, fmt.Sprintf("cm-%d", i), 100*generation+i)
		}
	}
	put(0)
	polltest.Eventually(t, "objects", func() bool { return backlog(t, ctx, s) == 0 && same(t, ctx, s) })
	_, since, _ := s.link.State()
	if err := s.hub.DeleteStream(ctx, streams.Desired); err != nil {
		t.Fatal(err)
	}
	if err := streams.Ensure(ctx, s.hub, streams.HubStreams(streams.HubLimits{})); err != nil {
		t.Fatal(err)
	}
	put(1)
	if err := streams.EnsureConsumer(ctx, s.hub, streams.Desired, streams.SiteConsumer("plant-a")); err != nil {
		t.Fatal(err)
	}
	polltest.Eventually(t, "convergence", func() bool { return backlog(t, ctx, s) == 0 && same(t, ctx, s) })
	if _, now, _ := s.link.State(); now != since {
		t.Fatal("the link did not stay up: the test has proved nothing")
	}
	before := lastSeq(t, ctx, s)
	s.cut(t)
	putDesired(t, ctx, s, "new", 1)
	s.line.Heal()
	polltest.Eventually(t, "convergence", func() bool { return backlog(t, ctx, s) == 0 && same(t, ctx, s) })
	if got := lastSeq(t, ctx, s) - before; got != 1 {
		t.Errorf("%d messages crossed after the cut, want 1", got)
	}
}

func lastSeq(t *testing.T, ctx context.Context, s *site) uint64 {
	t.Helper()
	leaf, err := s.js.Stream(ctx, streams.SiteDesired)
	if err != nil {
		t.Fatal(err)
	}
	return leaf.CachedInfo().State.LastSeq
}

// rollback makes SITE_DESIRED what it was at an earlier sequence.
func rollback(t *testing.T, ctx context.Context, s *site, cfg jetstream.StreamConfig, to uint64) {
	t.Helper()
	leaf, err := s.js.Stream(ctx, cfg.Name)
	if err != nil {
		t.Fatal(err)
	}
	var keep []*jetstream.RawStreamMsg
	for seq := leaf.CachedInfo().State.FirstSeq; seq <= to; seq++ {
		m, err := leaf.GetMsg(ctx, seq)
		if err != nil {
			t.Fatal(err)
		}
		keep = append(keep, m)
	}
	if err := s.js.DeleteStream(ctx, cfg.Name); err != nil {
		t.Fatal(err)
	}
	if _, err := s.js.CreateStream(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	for _, m := range keep {
		header := nats.Header{streams.HeaderSource: m.Header[streams.HeaderSource], streams.HeaderOp: m.Header[streams.HeaderOp]}
		if _, err := s.js.PublishMsg(ctx, &nats.Msg{Subject: m.Subject, Header: header, Data: m.Data}); err != nil {
			t.Fatal(err)
		}
	}
}

// A deleted Secret is in no file of the gateway once its tombstone is stored, whether it was in one
// message or in parts.
func TestDeletedSecretsLeaveTheDisk(t *testing.T) {
	t.Parallel()
	s, ctx := newSite(t)
	s.pace = quick
	respond(t, s)
	s.start(t, ctx)
	putDesired(t, ctx, s, "kept", "remains")
	texts := map[string]string{}
	for name, size := range map[string]int{"small": 100, "parts": 3 * streams.PartBytes} {
		texts[name] = "classified-" + name + "-"
		m := secret(name)
		m.Object = fmt.Appendf(nil, `{"apiVersion":"v1","kind":"Secret","metadata":{"namespace":"default","name":%q,"uid":%q},"data":{"v":%q}}`, name, m.UID, strings.Repeat(texts[name], size/10))
		if _, err := streams.Put(ctx, s.hub, streams.DesiredSubject("plant-a", m.Ref), m); err != nil {
			t.Fatal(err)
		}
	}
	polltest.Eventually(t, "the Secrets at the site", func() bool { return backlog(t, ctx, s) == 0 && same(t, ctx, s) })
	for name, text := range texts {
		if !contains(t, s.host.StoreDir(), []byte(text)) {
			t.Fatalf("the Secret %s is not on the disk; the test proves nothing", name)
		}
	}
	desired, err := s.hub.Stream(ctx, streams.Desired)
	if err != nil {
		t.Fatal(err)
	}
	for name := range texts {
		m := secret(name)
		subject := streams.DesiredSubject("plant-a", m.Ref)
		if _, err := streams.Erase(ctx, desired, subject, 0); err != nil {
			t.Fatal(err)
		}
		m.Op = streams.OpDelete
		if _, err := streams.Put(ctx, s.hub, subject, m); err != nil {
			t.Fatal(err)
		}
	}
	polltest.Eventually(t, "the tombstones at the site", func() bool { return backlog(t, ctx, s) == 0 && same(t, ctx, s) })
	check := func() {
		t.Helper()
		for name, text := range texts {
			if contains(t, s.host.StoreDir(), []byte(text)) {
				t.Errorf("the Secret %s is on the disk after it was deleted", name)
			}
		}
		if !contains(t, s.host.StoreDir(), []byte("remains")) {
			t.Error("another object has gone")
		}
	}
	check()
	s.restart(t, ctx, nil)
	polltest.Eventually(t, "all as before the restart", func() bool { return backlog(t, ctx, s) == 0 && same(t, ctx, s) })
	check()
	if n := counted(t, s, "petiole_leaf_streams_rebuilt_total"); n > 0 {
		t.Errorf("%v streams of %s were created again", n, streams.SiteDesired)
	}
}

// secret identifies a Secret for the site.
func secret(name string) streams.Message {
	return streams.Message{Ref: streams.Ref{Resource: "secrets", Namespace: "default", Name: name}, Op: streams.OpPut, UID: "u-" + name}
}
