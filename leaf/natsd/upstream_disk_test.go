package natsd

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/internal/polltest"
)

// TestUpstreamStoresOpenBatchesWithoutABound: docs/upstream.md, 22.
func TestUpstreamStoresOpenBatchesWithoutABound(t *testing.T) {
	t.Parallel()
	const streamBytes, storeBytes, messages, size = 1 << 20, 8 << 20, 64, 512 << 10
	opts := inStore(t.TempDir())
	opts.JetStreamMaxStore = storeBytes
	nc, js := jetStreamOf(t, startRaw(t, opts))
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "S", Subjects: []string{"s.>"}, AllowAtomicPublish: true, MaxBytes: streamBytes, Discard: jetstream.DiscardNew,
	}); err != nil {
		t.Fatal(err)
	}
	for i := range messages {
		m := &nats.Msg{Subject: "s.a", Data: make([]byte, size), Header: nats.Header{"Nats-Batch-Id": {"1"}, "Nats-Batch-Sequence": {strconv.Itoa(i + 1)}}}
		if answer, err := nc.RequestMsg(m, polltest.Limit); err != nil || len(answer.Data) > 0 {
			t.Fatalf("message %d of the batch is refused: %v: an open batch is bounded", i, err)
		}
	}
	// The batch is four times what the whole server may store; the end of it may wait to be written.
	if used := bytesBelow(t, opts.StoreDir); used < 2*storeBytes {
		t.Errorf("an open batch of %d bytes takes %d bytes of the disk", messages*size, used)
	}
	info, err := js.AccountInfo(t.Context())
	if err != nil || info.Store > streamBytes {
		t.Errorf("the account stores %+v: %v: an open batch is accounted for", info, err)
	}
}

// TestUpstreamErasesNothingThatWasReplaced: docs/upstream.md, 23.
func TestUpstreamErasesNothingThatWasReplaced(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, js := jetStreamOf(t, startRaw(t, inStore(dir)))
	newTable(t, js)
	publish(t, js, "s.a", "former-value")
	publish(t, js, "s.a", "next-value")
	s, err := js.Stream(t.Context(), "S")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SecureDeleteMsg(t.Context(), 1); err == nil {
		t.Error("a message that another one has replaced can be erased")
	}
	if !inFiles(t, dir, "former-value") {
		t.Error("a message that another one has replaced is not on the disk any more")
	}
}

// TestUpstreamKeepsHalfOfAChange: docs/upstream.md, 26.
func TestUpstreamKeepsHalfOfAChange(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startRaw(t, inStore(dir))
	nc, js := jetStreamOf(t, s)
	cfg := newTable(t, js).CachedInfo().Config
	publish(t, js, "s.a", "1")
	// The checksum is written through this name, after the configuration.
	blocked := filepath.Join(dir, "jetstream", "$G", "streams", "S", "meta.sum.tmp")
	if err := os.Mkdir(blocked, 0o700); err != nil {
		t.Fatal(err)
	}
	cfg.Description = "changed"
	if _, err := js.UpdateStream(t.Context(), cfg); err == nil {
		t.Error("a change whose checksum cannot be written is accepted")
	}
	if st, err := js.Stream(t.Context(), "S"); err != nil || st.CachedInfo().Config.Description != cfg.Description {
		t.Errorf("a change that was refused is no longer reported as if it had been made: %v", err)
	}
	nc.Close()
	stopRaw(s)
	if err := os.Remove(blocked); err != nil {
		t.Fatal(err)
	}
	_, js = jetStreamOf(t, startRaw(t, inStore(dir)))
	if _, err := js.Stream(t.Context(), "S"); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("the stream is recovered in spite of its checksum: %v", err)
	}
}

// bytesBelow returns the size of the files below a folder.
func bytesBelow(t *testing.T, dir string) (n int64) {
	t.Helper()
	walk(t, dir, func(_ string, info fs.FileInfo) { n += info.Size() })
	return n
}

// inFiles reports whether a text is in a file below a folder.
func inFiles(t *testing.T, dir, text string) (found bool) {
	t.Helper()
	walk(t, dir, func(path string, _ fs.FileInfo) {
		data, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		found = found || bytes.Contains(data, []byte(text))
	})
	return found
}

// walk calls f for each file below a folder, also while files come and go.
func walk(t *testing.T, dir string, f func(path string, info fs.FileInfo)) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			var info fs.FileInfo
			if info, err = d.Info(); err == nil {
				f(path, info)
			}
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	if err != nil {
		t.Fatal(fmt.Errorf("walk %s: %w", dir, err))
	}
}
