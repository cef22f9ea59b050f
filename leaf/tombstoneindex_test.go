package leaf

import (
	"context"
	"fmt"
	"strings"
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

// TestOlderTombstonesDeleteNothing has the hub deliver tombstones that are older than the objects that
// the site has, as of a former version that a killed hub restored. The objects stay in the stream, as
// the node API shows them, and the position goes on. A tombstone of the same version deletes them.
func TestOlderTombstonesDeleteNothing(t *testing.T) {
	t.Parallel()
	s, ctx := startSite(t)
	objects := []streams.Message{configMap("alive", "v"), secret("alive")}
	put := func(op streams.Op, version string) {
		t.Helper()
		for _, m := range objects {
			if m.Op, m.Epoch, m.Version, m.Object = op, "e", version, nil; op == streams.OpPut {
				m.Object = fmt.Appendf(nil, `{"metadata":{"name":%q},"data":{"v":"remains"}}`, m.Ref.Name)
			}
			if _, err := streams.Put(ctx, s.hub, streams.DesiredSubject("plant-a", m.Ref), m); err != nil {
				t.Fatal(err)
			}
		}
		polltest.Eventually(t, "empty backlog", func() bool { return backlog(t, ctx, s) == 0 })
	}
	check := func(op streams.Op, seq uint64) {
		t.Helper()
		for _, m := range objects {
			last, err := s.desired(t, ctx).GetLastMsgForSubject(ctx, streams.DesiredSubject("plant-a", m.Ref))
			if err != nil {
				t.Fatalf("%s: %v", m.Ref, err)
			}
			at, err := streams.ParseHubPosition(last.Header.Get(streams.HeaderSource))
			if got := streams.Op(last.Header.Get(streams.HeaderOp)); got != op || (op == streams.OpPut) != strings.Contains(string(last.Data), "remains") {
				t.Errorf("of %s the site has a %s of %d bytes, want a %s", m.Ref, got, len(last.Data), op)
			}
			if seq++; err != nil || at.Seq != seq {
				t.Errorf("%s is at %v (%v), want %d", m.Ref, at, err, seq)
			}
		}
	}
	put(streams.OpPut, "5")
	put(streams.OpDelete, "4")
	check(streams.OpPut, 2)
	put(streams.OpDelete, "5")
	check(streams.OpDelete, 4)
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
