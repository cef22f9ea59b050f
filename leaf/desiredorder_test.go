package leaf

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/streams"
)

// connectBridge connects to a hub that was started again, which has another port.
func (s *site) connectBridge(t *testing.T) {
	t.Helper()
	s.bridge = s.hubServer.Connect(t, "bridge")
	var err error
	if s.hub, err = jetstream.New(s.bridge); err != nil {
		t.Fatal(err)
	}
}

// restartHub stops the hub, calls between with the folder of its store, and starts it again.
func (s *site) restartHub(t *testing.T, between func(storeDir string) error) {
	t.Helper()
	dir := s.hubServer.Server.JetStreamConfig().StoreDir
	s.hubServer.Stop()
	if err := between(dir); err != nil {
		t.Fatal(err)
	}
	s.hubServer.Start(t)
	s.connectBridge(t)
}

// putVersion publishes a version of a configuration, or its tombstone, as a leader of term 1 does.
func putVersion(t *testing.T, ctx context.Context, s *site, name string, op streams.Op, version int, opts ...jetstream.PublishOpt) uint64 {
	t.Helper()
	m := configMap(name, version)
	if m.Op, m.Epoch, m.Version, m.Term = op, "1-e", fmt.Sprint(version), 1; op == streams.OpDelete {
		m.Object = nil
	}
	seq, err := streams.Put(ctx, s.hub, streams.DesiredSubject("plant-a", m.Ref), m, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return seq
}

// acked waits until the site has acknowledged DESIRED up to a sequence.
func acked(t *testing.T, ctx context.Context, s *site, seq uint64) {
	t.Helper()
	polltest.Eventually(t, "acknowledgement", func() bool {
		c, err := s.hub.Consumer(ctx, streams.Desired, "plant-a")
		return err == nil && c.CachedInfo().AckFloor.Stream >= seq
	})
}

// TestHubRolledBack restores an older copy of the hub's store, which then assigns sequences that the
// site has seen already. What the same leader publishes at them, before it notices that the store is
// another one, is at the site when it counts as acknowledged.
func TestHubRolledBack(t *testing.T) {
	t.Parallel()
	s, ctx := startSite(t)
	acked(t, ctx, s, putVersion(t, ctx, s, "changes", streams.OpPut, 1))
	older := t.TempDir()
	s.restartHub(t, func(dir string) error { return os.CopyFS(older, os.DirFS(dir)) })
	var seen uint64
	for version := 2; version < 10; version++ {
		seen = putVersion(t, ctx, s, "other", streams.OpPut, version)
	}
	acked(t, ctx, s, seen)
	s.restartHub(t, func(dir string) error {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
		return os.CopyFS(dir, os.DirFS(older))
	})
	again := putVersion(t, ctx, s, "changes", streams.OpPut, 20)
	if again > seen {
		t.Fatalf("sequence %d after %d: the test has proved nothing", again, seen)
	}
	acked(t, ctx, s, again)
	if !same(t, ctx, s) {
		t.Error("what was published after the rollback is acknowledged, and is not at the site")
	}
}

// TestResyncReturnsWhatTheSiteLost removes a message from the middle of SITE_DESIRED and resets the
// hub's consumer to the beginning, as the bridge does for a full resync.
func TestResyncReturnsWhatTheSiteLost(t *testing.T) {
	t.Parallel()
	s, ctx := startSite(t)
	var last uint64
	for i := range 5 {
		last = putVersion(t, ctx, s, fmt.Sprint("cm-", i), streams.OpPut, i)
	}
	acked(t, ctx, s, last)
	if err := s.desired(t, ctx).DeleteMsg(ctx, 3); err != nil {
		t.Fatal(err)
	}
	if same(t, ctx, s) {
		t.Fatal("nothing is missing: the test has proved nothing")
	}
	if _, err := s.hub.ResetConsumerToSequence(ctx, streams.Desired, "plant-a", 1); err != nil {
		t.Fatal(err)
	}
	polltest.Eventually(t, "what was lost", func() bool { return same(t, ctx, s) })
}

// TestDelayedWrite has a put arrive twice, the second time, as from a connection that was given up,
// after the site has stored the object's tombstone and the hub has removed it. The put expects no
// message on its subject, and there is none, so the hub stores it. The object stays deleted.
func TestDelayedWrite(t *testing.T) {
	t.Parallel()
	s, ctx := startSite(t)
	putVersion(t, ctx, s, "gone", streams.OpPut, 5, jetstream.WithExpectLastSequencePerSubject(0))
	tombstone := putVersion(t, ctx, s, "gone", streams.OpDelete, 6)
	acked(t, ctx, s, tombstone)
	hub, err := s.hub.Stream(ctx, streams.Desired)
	if err != nil {
		t.Fatal(err)
	}
	if err := hub.DeleteMsg(ctx, tombstone); err != nil {
		t.Fatal(err)
	}
	acked(t, ctx, s, putVersion(t, ctx, s, "gone", streams.OpPut, 5, jetstream.WithExpectLastSequencePerSubject(0)))
	if got := opAt(t, ctx, s, "gone"); got != streams.OpDelete {
		t.Errorf("the site has a %s of a deleted object", got)
	}
}
