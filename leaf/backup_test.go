package leaf

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap/zaptest"

	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/leaf/backup"
	"github.com/petiole-io/petiole/streams"
)

// backupSource returns what a site's gateway backs up.
func (s *site) backupSource() backup.Source {
	return backup.Source{
		Site: "plant-a", Node: "plant-a-1", ConfigDir: filepath.Dir(s.cfg.NATS.ConfigFile), DataDir: s.cfg.DataDir,
		StoreDir: filepath.Dir(s.host.StoreDir()), Version: "test",
	}
}

// replaceMachine removes everything of the gateway, and restores the backup in its place.
func (s *site) replaceMachine(t *testing.T, source backup.Source, file string) {
	t.Helper()
	for _, dir := range []string{source.ConfigDir, source.DataDir, source.StoreDir} {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := backup.Restore(t.Context(), file); err != nil {
		t.Fatal(err)
	}
}

// pump is an object whose state the site reports.
var pump = streams.Ref{Node: "plant-a-1", Resource: "pods", Namespace: "default", Name: "pump"}

// report stores a state of the pump at the site.
func (s *site) report(t *testing.T, ctx context.Context, state int) {
	t.Helper()
	m := streams.Message{Ref: pump, Op: streams.OpPut, UID: "u", Object: fmt.Appendf(nil, `{"metadata":{"name":"pump","uid":"u"},"state":%d}`, state)}
	if _, err := streams.Put(ctx, s.js, streams.LocalReportedSubject(pump), m); err != nil {
		t.Fatal(err)
	}
}

// reported is the state of the pump that the hub has, 0 if none.
func (s *site) reported(t *testing.T, ctx context.Context) int {
	t.Helper()
	hub, err := s.hub.Stream(ctx, streams.Reported("plant-a"))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := hub.GetLastMsgForSubject(ctx, streams.ReportedSubject("plant-a", pump))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	_, m, err := streams.Load(ctx, hub, raw.Subject, raw.Header, raw.Data)
	if err != nil {
		t.Fatal(err)
	}
	var object struct{ State int }
	if err := json.Unmarshal(m.Object, &object); err != nil {
		t.Fatal(err)
	}
	return object.State
}

// TestBackup replaces a gateway by another machine, with a backup that has records which the hub
// lacks, and again with the same backup when the hub has all of them and more: each record is at the
// hub once, and desired state of the backup is not shown before it was compared.
func TestBackup(t *testing.T) {
	t.Parallel()
	const delivered, waiting, later, after = 20, 10, 15, 7
	s, ctx := newSite(t)
	s.shortWindow(t, ctx)
	respond(t, s)
	s.start(t, ctx)
	for i := range delivered {
		s.say(t, ctx, "pump", i)
		putDesired(t, ctx, s, fmt.Sprintf("cm-%d", i), i)
	}
	s.report(t, ctx, 1)
	s.acknowledged(t, ctx, delivered)
	polltest.Eventually(t, "objects", func() bool {
		return backlog(t, ctx, s) == 0 && same(t, ctx, s) && s.reported(t, ctx) == 1
	})
	s.cut(t)
	s.report(t, ctx, 2)
	for i := range waiting {
		s.say(t, ctx, "pump", delivered+i)
	}
	source := s.backupSource()
	file := filepath.Join(t.TempDir(), "backup")
	s.stop()
	if err := backup.Create(ctx, source, file); err != nil {
		t.Fatal(err)
	}

	// The machine has died, and another takes its place.
	s.replaceMachine(t, source, file)
	s.start(t, ctx)
	select {
	case <-s.store.Desired().Complete():
		t.Error("desired state is shown before it was compared")
	default:
	}
	s.line.Heal()
	total := delivered + waiting
	polltest.Eventually(t, "what waited", func() bool {
		return s.arrived(t, ctx, total-1) && s.reported(t, ctx) == 2
	})
	s.report(t, ctx, 3)
	for i := range later {
		s.say(t, ctx, "pump", total+i)
		putDesired(t, ctx, s, fmt.Sprintf("cm-%d", i), 100+i)
	}
	total += later
	s.acknowledged(t, ctx, uint64(total))
	polltest.Eventually(t, "objects", func() bool {
		return backlog(t, ctx, s) == 0 && same(t, ctx, s) && s.reported(t, ctx) == 3
	})

	// It dies, too. The same backup is older now than what the hub has.
	s.stop()
	s.replaceMachine(t, source, file)
	s.start(t, ctx)
	for i := range after {
		s.say(t, ctx, "pump", total+i)
	}
	total += after
	polltest.Eventually(t, "all records", func() bool { return s.arrived(t, ctx, total-1) })
	got := heard(t, ctx, s, "pump")
	for i, n := range got {
		if n != i {
			t.Fatalf("record %d at the hub is %d: %v", i, n, got)
		}
	}
	if len(got) != total {
		t.Errorf("%d records at the hub, want %d", len(got), total)
	}
	polltest.Eventually(t, "desired state is compared and shown", func() bool {
		select {
		case <-s.store.Desired().Complete():
			return backlog(t, ctx, s) == 0 && same(t, ctx, s)
		default:
			return false
		}
	})
	s.report(t, ctx, 4)
	polltest.Eventually(t, "the newest state", func() bool { return s.reported(t, ctx) == 4 })
	if n := s.store.Drops().Total(); n != 0 {
		t.Errorf("%d records are counted as dropped, the hub has them all", n)
	}
}

// TestOneLeafForAFolder: while something else has the data folder the leaf does not start.
func TestOneLeafForAFolder(t *testing.T) {
	t.Parallel()
	cfg := DefaultConfig()
	cfg.DataDir = t.TempDir()
	release, err := backup.Lock(cfg.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	if err := New(cfg, "test", zaptest.NewLogger(t)).Run(t.Context()); !errors.Is(err, backup.ErrInUse) {
		t.Errorf("the leaf starts beside another: %v", err)
	}
	release()
}
