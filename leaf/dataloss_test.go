package leaf

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/streams"
)

// restartServer restarts the server and returns when the leaf's connection is to the new one: a
// request that the old one has taken over gets no answer.
func (s *site) restartServer(t *testing.T, ctx context.Context, between func() error) {
	t.Helper()
	s.store.Restart(ctx, between)
	polltest.Eventually(t, "connection to the new server", func() bool { _, err := s.nc.RTT(); return err == nil })
}

// TestStoreRolledBackWhileTheLeafRuns restarts the server on an older copy of the store,
// as a stalled one may be: what is stored at the same sequences afterwards arrives.
func TestStoreRolledBackWhileTheLeafRuns(t *testing.T) {
	t.Parallel()
	const before, between, after = 20, 30, 40
	s, ctx := newSite(t)
	s.unsupervised = true
	respond(t, s)
	s.start(t, ctx)
	for i := range before {
		s.say(t, ctx, "pump", i)
	}
	s.acknowledged(t, ctx, before)
	copied := filepath.Join(t.TempDir(), "js")
	store := s.host.StoreDir()
	s.restartServer(t, ctx, func() error { return os.CopyFS(copied, os.DirFS(store)) })
	for i := range between {
		s.say(t, ctx, "pump", before+i)
	}
	s.acknowledged(t, ctx, before+between)
	s.restartServer(t, ctx, func() error {
		return errors.Join(os.RemoveAll(store), os.CopyFS(store, os.DirFS(copied)))
	})
	for i := range after {
		s.say(t, ctx, "pump", before+between+i)
	}
	const all = before + between + after
	polltest.Eventually(t, "all records", func() bool { return s.arrived(t, ctx, all-1) })
	if got := heard(t, ctx, s, "pump"); len(got) != all {
		t.Errorf("%d records at the hub, want %d", len(got), all)
	}
	if n := s.store.Drops().Total(); n != 0 {
		t.Errorf("%d records are counted as dropped, the hub has them all", n)
	}
}

// TestRestartRecoversStreams restarts the server of a running leaf whose telemetry it does not
// recover, while the link is cut: what was waiting and what comes afterwards arrives.
func TestRestartRecoversStreams(t *testing.T) {
	t.Parallel()
	const before, after = 20, 20
	s, ctx := newSite(t)
	s.unsupervised = true
	respond(t, s)
	s.start(t, ctx)
	s.cut(t)
	for i := range before {
		s.say(t, ctx, "pump", i)
	}
	dir := filepath.Join(s.host.StoreDir(), "$G", "streams", streams.SiteTelemetry)
	s.restartServer(t, ctx, func() error { return os.Remove(filepath.Join(dir, "meta.inf")) })
	for i := range after {
		s.say(t, ctx, "pump", before+i)
	}
	s.line.Heal()
	polltest.Eventually(t, "all records", func() bool { return s.arrived(t, ctx, before+after-1) })
	if got := heard(t, ctx, s, "pump"); len(got) != before+after {
		t.Errorf("%d records at the hub, want %d", len(got), before+after)
	}
}
