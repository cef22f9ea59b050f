package filestore

import (
	"encoding/binary"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/petiole-io/petiole/streams"
)

// The tests of this file show the faults of nats-server that docs/upstream.md reports. They
// fail when nats-server has mended them: then the workaround can go.

// unchecked opens a store without Check and returns how that ended.
func unchecked(t *testing.T, dir string) string {
	t.Helper()
	c := startChild(t)
	defer c.stop()
	if _, err := c.open(order{Dir: dir, Sequences: sequences}); err != nil {
		return err.Error()
	}
	return "opened"
}

func TestUpstreamBelievesASequence(t *testing.T) {
	dir := makeStore(t, "")
	file, at := lastSequence(t, dir, streams.SiteDesired)
	flipBit(t, file, at, 26)
	if got := unchecked(t, dir); !strings.Contains(got, "resident") {
		t.Errorf("a sequence is no longer believed: %s", got)
	}
}

func TestUpstreamPanicsOnAMessage(t *testing.T) {
	dir := makeStore(t, "")
	file, at := lastSequence(t, dir, streams.SiteReported)
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	record := at - 4
	flipBit(t, file, record+body(b[record:]), 31)
	for _, f := range []string{indexFile, "thw.db"} {
		if err := os.Remove(filepath.Join(filepath.Dir(file), f)); err != nil {
			t.Fatal(err)
		}
	}
	if got := unchecked(t, dir); !strings.Contains(got, "nil pointer dereference") {
		t.Errorf("nats-server no longer panics: %s", got)
	}
}

func TestUpstreamBelievesACount(t *testing.T) {
	dir := makeStore(t, "")
	state := []byte{stateMagic, 2}
	for _, v := range []uint64{1, 1, 1, 1, 1 << 28, 0} {
		state = binary.AppendUvarint(state, v)
	}
	file := filepath.Join(streamDir(dir, streams.SiteDesired), consumersDir, streams.ApplyConsumer, stateFile)
	if err := os.WriteFile(file, state, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := unchecked(t, dir); !strings.Contains(got, "resident") {
		t.Errorf("a count is no longer believed: %s", got)
	}
}

func TestUpstreamReadsWhatIsTooLong(t *testing.T) {
	dir := makeStore(t, "")
	if err := os.Truncate(blockFiles(t, dir, streams.SiteDesired)[0], 1<<30); err != nil {
		t.Fatal(err)
	}
	if got := unchecked(t, dir); !strings.Contains(got, "resident") {
		t.Errorf("a block is no longer read whole: %s", got)
	}
}

func TestUpstreamLosesAStreamWithAnotherChecksum(t *testing.T) {
	dir := makeStore(t, "")
	updatePartly(sumFile)(t, dir, "")
	c := startChild(t)
	defer c.stop()
	got, err := c.open(order{Dir: dir, Sequences: sequences})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Streams) > 1 { // SITE_QUARANTINE, which was not changed
		t.Errorf("nats-server recovers streams whose checksum is an old one: %v", slices.Sorted(maps.Keys(got.Streams)))
	}
}
