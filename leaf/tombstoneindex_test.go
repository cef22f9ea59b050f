package leaf

import (
	"context"
	"testing"

	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/streams"
)

// TestTombstonesSupersedeOlderVersions has the hub deliver an object whose tombstone the site has stored, as
// a hub does that was killed: what the site has of it stays the tombstone, also after a
// restart of the leaf, and its position goes on. What the tombstone does not supersede is
// stored.
func TestTombstonesSupersedeOlderVersions(t *testing.T) {
	t.Parallel()
	s, ctx := startSite(t)
	put := func(name string, op streams.Op, epoch, version string) {
		t.Helper()
		m := configMap(name, version)
		if m.Op, m.Epoch, m.Version = op, epoch, version; op == streams.OpDelete {
			m.Object = nil
		}
		if _, err := streams.Put(ctx, s.hub, streams.DesiredSubject("plant-a", m.Ref), m); err != nil {
			t.Fatal(err)
		}
	}
	stored := func() {
		t.Helper()
		polltest.Eventually(t, "empty backlog", func() bool { return backlog(t, ctx, s) == 0 })
	}
	for _, name := range []string{"dead", "wanted-again", "restored", "made-again"} {
		put(name, streams.OpPut, "e", "5")
		put(name, streams.OpDelete, "e", "6")
	}
	stored()
	put("wanted-again", streams.OpPut, "e", "6")
	put("restored", streams.OpPut, "f", "5")
	put("made-again", streams.OpPut, "e", "7")
	put("dead", streams.OpPut, "e", "5")
	stored()
	check := func() {
		t.Helper()
		for name, want := range map[string]streams.Op{"wanted-again": streams.OpPut, "restored": streams.OpPut, "made-again": streams.OpPut, "dead": streams.OpDelete} {
			if got := opAt(t, ctx, s, name); got != want {
				t.Errorf("of %s the site has a %s, want a %s", name, got, want)
			}
		}
	}
	check()
	hub, err := s.hub.Stream(ctx, streams.Desired)
	if err != nil {
		t.Fatal(err)
	}
	last, err := s.desired(t, ctx).GetMsg(ctx, lastSeq(t, ctx, s))
	if err != nil {
		t.Fatal(err)
	}
	if at, err := streams.ParseHubPosition(last.Header.Get(streams.HeaderSource)); err != nil || at.Seq != hub.CachedInfo().State.LastSeq {
		t.Errorf("the site is at %v (%v), the hub at %d", at, err, hub.CachedInfo().State.LastSeq)
	}
	s.restart(t, ctx, nil)
	put("dead", streams.OpPut, "e", "5") // the tombstones are read again
	stored()
	check()
}

// opAt is what the site's last message says of a configuration.
func opAt(t *testing.T, ctx context.Context, s *site, name string) streams.Op {
	t.Helper()
	leaf, err := s.js.Stream(ctx, streams.SiteDesired)
	if err != nil {
		t.Fatal(err)
	}
	m, err := leaf.GetLastMsgForSubject(ctx, streams.DesiredSubject("plant-a", configMap(name, 0).Ref))
	if err != nil {
		t.Fatal(err)
	}
	return streams.Op(m.Header.Get(streams.HeaderOp))
}
