package leaf

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/streams"
)

// pod is a pod for the site, at a version.
func pod(name string, version int) streams.Message {
	return streams.Message{
		Ref: streams.Ref{Node: "plant-a-1", Resource: "pods", Namespace: "default", Name: name}, Op: streams.OpPut, UID: "u-" + name, Version: strconv.Itoa(version), Epoch: "1",
		Object: fmt.Appendf(nil, `{"apiVersion":"v1","kind":"Pod","metadata":{"namespace":"default","name":%q,"uid":%q,"resourceVersion":"%d"}}`, name, "u-"+name, version),
	}
}

func put(t testing.TB, ctx context.Context, s *site, m streams.Message) {
	t.Helper()
	if _, err := streams.Put(ctx, s.hub, streams.DesiredSubject("plant-a", m.Ref), m); err != nil {
		t.Fatal(err)
	}
}

// versionAt returns the operation and the version of an object that the site has on disk.
func versionAt(t testing.TB, ctx context.Context, s *site, m streams.Message) string {
	t.Helper()
	leaf, err := s.js.Stream(ctx, streams.SiteDesired)
	if err != nil {
		t.Fatal(err)
	}
	msg, err := leaf.GetLastMsgForSubject(ctx, streams.DesiredSubject("plant-a", m.Ref))
	if err != nil {
		return ""
	}
	return msg.Header.Get(streams.HeaderOp) + " " + msg.Header.Get(streams.HeaderVersion)
}

// TestUrgentOvertakes has a site return over 64 kbit/s with a backlog of ConfigMaps, behind which
// a pod is deleted and another created, and changes a pod while the backlog is under way: they are
// at the site long before the ConfigMaps ahead of them, and are delivered once more in their turn.
func TestUrgentOvertakes(t *testing.T) {
	t.Parallel()
	s, ctx := newSite(t)
	s.start(t, ctx)
	respond(t, s)
	s.up(t)
	old := pod("old", 1)
	put(t, ctx, s, old)
	polltest.Eventually(t, "the pod", func() bool { return versionAt(t, ctx, s, old) == "put 1" && backlog(t, ctx, s) == 0 })
	s.cut(t)
	for i := range 6 {
		putDesired(t, ctx, s, fmt.Sprintf("cm-%d", i), noise(20_000))
	}
	created := pod("new", 2)
	put(t, ctx, s, created)
	deleted := old
	deleted.Op, deleted.Version, deleted.Object = streams.OpDelete, "3", nil
	put(t, ctx, s, deleted)
	all := backlog(t, ctx, s)
	s.slow(t, 64*kbit)
	overtook := func(what string, m streams.Message, want string) {
		t.Helper()
		start := time.Now()
		polltest.Eventually(t, what, func() bool { return versionAt(t, ctx, s, m) == want })
		left := backlog(t, ctx, s)
		t.Logf("%s after %s, with %d of %d messages pending", what, time.Since(start).Round(100*time.Millisecond), left, all)
		if left < 3 {
			t.Errorf("%s arrived when %d messages were left", what, left)
		}
	}
	overtook("the deletion", old, "delete 3")
	overtook("the new pod", created, "put 2")
	put(t, ctx, s, pod("new", 4))
	overtook("the changed pod", created, "put 4")
	s.line.Limit(0)
	polltest.Eventually(t, "the backlog has arrived", func() bool { return backlog(t, ctx, s) == 0 })
	if !same(t, ctx, s) {
		t.Error("an object is missing at the site")
	}
	if got := versionAt(t, ctx, s, old); got != "delete 3" {
		t.Errorf("the deleted pod is %q", got)
	}
	if n := gather(t, s, "petiole_leaf_urgent_total"); n < 3 || n > 6 {
		t.Errorf("%v messages have overtaken, want 3", n)
	}
}

// gather returns the sum of a counter of the leaf.
func gather(t testing.TB, s *site, name string) float64 {
	t.Helper()
	families, err := s.leaf.counts.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			sum := 0.0
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue()
			}
			return sum
		}
	}
	t.Fatalf("there is no metric %s", name)
	return 0
}

// TestUrgentSurvivesACrash cuts the power of a site right after a message has overtaken: nothing
// of what it has overtaken is taken for delivered.
func TestUrgentSurvivesACrash(t *testing.T) {
	t.Parallel()
	s, ctx := newSite(t)
	s.start(t, ctx)
	respond(t, s)
	s.up(t)
	putDesired(t, ctx, s, "first", 1)
	polltest.Eventually(t, "the first object", func() bool { return backlog(t, ctx, s) == 0 })
	s.cut(t)
	for i := range 8 {
		putDesired(t, ctx, s, fmt.Sprintf("cm-%d", i), noise(20_000))
	}
	late := pod("late", 2)
	put(t, ctx, s, late)
	s.slow(t, 64*kbit)
	polltest.Eventually(t, "the pod", func() bool { return versionAt(t, ctx, s, late) == "put 2" })
	if backlog(t, ctx, s) < 3 {
		t.Error("the pod has not overtaken")
	}
	s.restart(t, ctx, nil)
	s.line.Limit(0)
	polltest.Eventually(t, "the backlog has arrived", func() bool { return backlog(t, ctx, s) == 0 })
	if !same(t, ctx, s) {
		t.Error("an object is missing at the site")
	}
}
