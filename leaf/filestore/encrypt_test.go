package filestore

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/streams"
)

// marker is part of every message's subject or body.
var marker = []byte("plant-a.configmaps")

// holds reports whether a file below dir contains text.
func holds(t testing.TB, dir string, text []byte) (found string) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if bytes.Contains(b, text) {
			found = path
		}
		return err
	}))
	return found
}

func encrypt(t testing.TB, dir string) {
	t.Helper()
	must(t, Encrypt(context.Background(), filepath.Join(dir, server.JetStreamStoreDir), storeKey, zap.NewNop()))
}

// TestEncryptKeepsEverything encrypts a store: nats-server finds in it what was there, and
// nobody finds a text of it in its files.
func TestEncryptKeepsEverything(t *testing.T) {
	plain := makeStore(t, "")
	want := contents(t, copyStore(t, plain), "")
	if holds(t, plain, marker) == "" {
		t.Fatal("the plain store does not hold the marker; the test proves nothing")
	}
	interrupt := map[string]func(t *testing.T, dir string){
		"at once": func(*testing.T, string) {},
		"after a copy was not completed": func(t *testing.T, dir string) {
			must(t, os.CopyFS(filepath.Join(filepath.Dir(dir), encrypting+filepath.Base(dir)), os.DirFS(filepath.Join(dir, "msgs"))))
		},
		"before the stream was replaced": func(t *testing.T, dir string) { keepComplete(t, dir, true) },
		"while the stream was removed": func(t *testing.T, dir string) {
			keepComplete(t, dir, true)
			must(t, os.Remove(filepath.Join(dir, metaFile)))
		},
		"after the stream was removed": func(t *testing.T, dir string) { keepComplete(t, dir, false) },
	}
	for name, do := range interrupt {
		t.Run(name, func(t *testing.T) {
			dir := copyStore(t, plain)
			do(t, streamDir(dir, streams.SiteReported))
			encrypt(t, dir)
			if got := contents(t, copyStore(t, dir), storeKey); !reflect.DeepEqual(got, want) {
				t.Errorf("the encrypted store holds %v, want %v", got, want)
			}
			encrypt(t, dir) // nothing is left to do
			if path := holds(t, dir, marker); path != "" {
				t.Errorf("%s holds plain text", path)
			}
		})
	}
}

// keepComplete leaves the folders as when the process is ended between the completion of a
// stream's copy and its place.
func keepComplete(t *testing.T, dir string, old bool) {
	t.Helper()
	saved := t.TempDir()
	must(t, os.CopyFS(saved, os.DirFS(dir)))
	must(t, encryptStream(dir, storeKey))
	must(t, os.Rename(dir, filepath.Join(filepath.Dir(dir), encrypted+filepath.Base(dir))))
	if old {
		must(t, os.CopyFS(dir, os.DirFS(saved)))
	}
}

func contents(t *testing.T, dir, key string) map[string]map[uint64]uint64 {
	t.Helper()
	c := startChild(t)
	defer c.stop()
	got, err := c.open(order{Dir: dir, Check: true, Sequences: sequences, Key: key})
	must(t, err)
	if len(got.Damaged) > 0 {
		t.Fatalf("damaged: %v", got.Damaged)
	}
	out := map[string]map[uint64]uint64{}
	for name, f := range got.Streams {
		out[name] = f.Messages
	}
	return out
}

// TestCheckKey opens stores with the right key, another one, and none.
func TestCheckKey(t *testing.T) {
	encryptedStore, plain := makeStore(t, storeKey), makeStore(t, "")
	for _, c := range []struct {
		dir, key string
		want     error
	}{
		{encryptedStore, storeKey, nil},
		{encryptedStore, "another", ErrKey},
		{encryptedStore, "", ErrKey},
		{plain, storeKey, nil},
		{plain, "", nil},
		{t.TempDir(), storeKey, nil},
	} {
		if err := CheckKey(filepath.Join(c.dir, server.JetStreamStoreDir), c.key); !errors.Is(err, c.want) {
			t.Errorf("CheckKey(%q) = %v, want %v", c.key, err, c.want)
		}
	}
	if path := holds(t, encryptedStore, marker); path != "" {
		t.Errorf("%s holds plain text", path)
	}
}
