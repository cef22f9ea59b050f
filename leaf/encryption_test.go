package leaf

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/leaf/filestore"
	"github.com/petiole-io/petiole/leaf/natsd"
	"github.com/petiole-io/petiole/streams"
)

// TestStoreIsEncrypted gives a key to a leaf that had none, with records that wait for the link
// and desired state: all of it stays, nothing of it can be read on the disk, and with another key
// or none the leaf does not start and changes nothing.
func TestStoreIsEncrypted(t *testing.T) {
	t.Parallel()
	s, ctx := newSite(t)
	s.pace = quick
	respond(t, s)
	s.start(t, ctx)
	for i := range 30 {
		putDesiredAsync(t, s, fmt.Sprintf("cm-%d", i), i)
	}
	polltest.Eventually(t, "objects", func() bool { return backlog(t, ctx, s) == 0 && same(t, ctx, s) })
	s.cut(t)
	const waiting = 50
	for i := range waiting {
		s.record(t, ctx, i, 500)
	}
	before := desiredSet(t, ctx, s)
	store := s.host.StoreDir()
	text := []byte("desired.plant-a")
	if !contains(t, store, text) {
		t.Fatal("the plain store has no subject in it; the test proves nothing")
	}
	s.storeKey = "first"
	s.restart(t, ctx, nil)
	if got := desiredSet(t, ctx, s); got != before {
		t.Error("desired state is not what it was")
	}
	if contains(t, store, text) {
		t.Error("a subject can be read on the disk")
	}
	s.stop()
	was := files(t, store)
	for _, key := range []string{"", "second"} {
		h, err := natsd.Start(ctx, natsd.Config{Site: "plant-a", File: s.cfg.NATS.ConfigFile, StoreKey: key, Log: zap.NewNop()})
		if err == nil {
			h.Stop()
		}
		if !errors.Is(err, filestore.ErrKey) {
			t.Errorf("with key %q it starts: %v", key, err)
		}
		if now := files(t, store); !maps.EqualFunc(now, was, bytes.Equal) {
			t.Errorf("with key %q the store is changed", key)
		}
	}
	s.start(t, ctx)
	s.line.Heal()
	polltest.Eventually(t, "the last record", func() bool { return s.arrived(t, ctx, waiting-1) })
	if lost, twice := covered(t, s.stored(t, ctx), waiting); lost+twice > 0 || s.store.Drops().Total() > 0 {
		t.Errorf("%d records are lost, %d arrived twice, %d are counted", lost, twice, s.store.Drops().Total())
	}
	polltest.Eventually(t, "convergence", func() bool { return backlog(t, ctx, s) == 0 && same(t, ctx, s) })
	if n := counted(t, s, "petiole_leaf_streams_rebuilt_total"); n > 0 {
		t.Errorf("%v streams of %s were created again", n, streams.SiteDesired)
	}
}

// files are the contents of all files below a folder.
func files(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			out[path], err = os.ReadFile(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// contains reports whether a file below a folder contains text.
func contains(t *testing.T, dir string, text []byte) bool {
	t.Helper()
	for _, data := range files(t, dir) {
		if bytes.Contains(data, text) {
			return true
		}
	}
	return false
}
