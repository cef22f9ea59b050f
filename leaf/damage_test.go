package leaf

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/leaf/desired"
	"github.com/petiole-io/petiole/leaf/natsd"
	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/inventory"
)

// mutation damages the folder of one stream of a leaf that does not run.
type mutation struct {
	name string
	do   func(t *testing.T, rng *rand.Rand, dir string)
}

func mutations() []mutation {
	missing := func(names ...string) func(*testing.T, *rand.Rand, string) {
		return func(t *testing.T, _ *rand.Rand, dir string) {
			for _, n := range names {
				if err := os.RemoveAll(filepath.Join(dir, n)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	both := func(fs ...func(*testing.T, *rand.Rand, string)) func(*testing.T, *rand.Rand, string) {
		return func(t *testing.T, rng *rand.Rand, dir string) {
			for _, f := range fs {
				f(t, rng, dir)
			}
		}
	}
	return []mutation{
		{"description missing", missing("meta.inf")},
		{"description flipped", flip("meta.inf")},
		{"description truncated", truncate("meta.inf")},
		{"checksum of the description missing", missing("meta.sum")},
		{"index missing", missing("msgs/index.db")},
		{"index flipped", flip("msgs/index.db")},
		{"index truncated", truncate("msgs/index.db")},
		{"first block flipped", flip("msgs/1.blk")},
		{"first block flipped, index missing", both(flip("msgs/1.blk"), missing("msgs/index.db"))},
		{"first block truncated", truncate("msgs/1.blk")},
		{"first block missing", missing("msgs/1.blk")},
		{"first block empty", empty("msgs/1.blk")},
		{"last block flipped", flip("msgs/*.blk")},
		{"last block truncated", truncate("msgs/*.blk")},
		{"last block truncated, index missing", both(truncate("msgs/*.blk"), missing("msgs/index.db"))},
		{"last block missing", func(t *testing.T, rng *rand.Rand, dir string) {
			missing(filepath.Base(last(t, dir, "msgs/*.blk")))(t, rng, filepath.Join(dir, "msgs"))
		}},
		{"last record's sequence far ahead", flipLast(4, 26)},
		{"last record's sequence out of reach", flipLast(4, 40)},
		{"last record's sequence erased", flipLast(4, 63)},
		{"last record's sequence of a tombstone", flipLast(4, 62)},
		{"last record's length out of reach", flipLast(0, 30)},
		{"last record's headers longer than the message", flipHeaders(20)},
		{"last block oversize", func(t *testing.T, _ *rand.Rand, dir string) {
			if err := os.Truncate(last(t, dir, "msgs/*.blk"), 2<<30); err != nil { // of zeros that are not on disk
				t.Fatal(err)
			}
		}},
		{"index oversize", func(t *testing.T, _ *rand.Rand, dir string) {
			if err := os.Truncate(last(t, dir, "msgs/index.db"), 2<<30); err != nil {
				t.Fatal(err)
			}
		}},
		{"messages missing", missing("msgs")},
		{"everything missing", missing("")},
		{"consumers missing", missing("obs")},
		{"consumer's state flipped", flip("obs/*/o.dat")},
		{"consumer's state missing", func(t *testing.T, _ *rand.Rand, dir string) {
			if err := os.Remove(last(t, dir, "obs/*/o.dat")); err != nil {
				t.Fatal(err)
			}
		}},
		{"consumer's state counts deliveries that are not there", counting(1<<28, 0)},
		{"consumer's state counts redeliveries that are not there", counting(0, 1<<50)},
		{"consumer's description flipped", flip("obs/*/meta.inf")},
	}
}

// encryptedMutations damage an encrypted stream, whose records nobody can find without its key:
// leaf/filestore damages those.
func encryptedMutations() (out []mutation) {
	for _, m := range mutations() {
		switch m.name {
		case "description flipped", "index truncated", "first block flipped", "first block missing", "last block truncated", "consumer's state flipped":
			out = append(out, m)
		}
	}
	return append(out,
		mutation{"key of the stream flipped", flip("meta.key")},
		mutation{"key of the stream missing", func(t *testing.T, _ *rand.Rand, dir string) { remove(t, filepath.Join(dir, "meta.key")) }},
		mutation{"key of the first block flipped", flip("msgs/1.key")},
		mutation{"key of the first block missing", func(t *testing.T, _ *rand.Rand, dir string) { remove(t, filepath.Join(dir, "msgs/1.key")) }},
		mutation{"key of a consumer flipped", flip("obs/*/meta.key")},
		mutation{"consumer's state truncated", truncate("obs/*/o.dat")},
	)
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

// counting makes a consumer's state that says how much it holds, and holds nothing.
func counting(pending, redelivered uint64) func(*testing.T, *rand.Rand, string) {
	return func(t *testing.T, _ *rand.Rand, dir string) {
		edit(t, last(t, dir, "obs/*/o.dat"), func(b []byte) []byte {
			b = b[:2]
			for _, v := range []uint64{1, 1, 1, 1, pending, redelivered} {
				b = binary.AppendUvarint(b, v)
			}
			return b
		})
	}
}

// last is the last file by number or name that matches.
func last(t *testing.T, dir, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(found) == 0 {
		t.Fatalf("no file %s in %s: %v", pattern, dir, err)
	}
	slices.SortFunc(found, func(a, b string) int { return len(a)*1000 + int(a[len(a)-5]) - len(b)*1000 - int(b[len(b)-5]) })
	return found[len(found)-1]
}

// flip turns 16 bits of a file round.
func flip(pattern string) func(*testing.T, *rand.Rand, string) {
	return func(t *testing.T, rng *rand.Rand, dir string) {
		edit(t, last(t, dir, pattern), func(b []byte) []byte {
			for range 16 {
				b[rng.IntN(len(b))] ^= 1 << rng.IntN(8)
			}
			return b
		})
	}
}

// flipLast flips a bit of the last record of the last block, counted from an offset on.
func flipLast(offset, bit int) func(*testing.T, *rand.Rand, string) {
	return func(t *testing.T, _ *rand.Rand, dir string) {
		edit(t, last(t, dir, "msgs/*.blk"), func(b []byte) []byte {
			b[lastRecord(b)+offset+bit/8] ^= 1 << (bit % 8)
			return b
		})
	}
}

// flipHeaders flips a bit of the length of the last record's headers.
func flipHeaders(bit int) func(*testing.T, *rand.Rand, string) {
	return func(t *testing.T, _ *rand.Rand, dir string) {
		edit(t, last(t, dir, "msgs/*.blk"), func(b []byte) []byte {
			at := lastRecord(b)
			if b[at+3]>>7 == 0 {
				return b // it has none
			}
			b[at+22+int(binary.LittleEndian.Uint16(b[at+20:]))+bit/8] ^= 1 << (bit % 8)
			return b
		})
	}
}

// lastRecord is the offset of the last record of a block.
func lastRecord(block []byte) (at int) {
	for next := 0; next < len(block); next += int(binary.LittleEndian.Uint32(block[next:]) &^ (1 << 31)) {
		at = next
	}
	return at
}

func truncate(pattern string) func(*testing.T, *rand.Rand, string) {
	return func(t *testing.T, rng *rand.Rand, dir string) {
		edit(t, last(t, dir, pattern), func(b []byte) []byte { return b[:rng.IntN(len(b))] })
	}
}

func empty(pattern string) func(*testing.T, *rand.Rand, string) {
	return func(t *testing.T, _ *rand.Rand, dir string) {
		edit(t, last(t, dir, pattern), func([]byte) []byte { return nil })
	}
}

func edit(t testing.TB, path string, f func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) == 0 {
		t.Fatalf("%s is empty", path)
	}
	if err := os.WriteFile(path, f(b), 0o600); err != nil {
		t.Fatal(err)
	}
}

// eachMutation runs a test for each, with a fixed seed, on a plain store and on an encrypted one.
func eachMutation(t *testing.T, stream string, run func(t *testing.T, storeKey string, damage func(store string))) {
	each := func(storeKey string, all []mutation) func(*testing.T) {
		return func(t *testing.T) {
			for i, m := range all {
				t.Run(m.name, func(t *testing.T) {
					t.Parallel()
					run(t, storeKey, func(store string) {
						m.do(t, rand.New(rand.NewPCG(uint64(i), 11)), filepath.Join(store, "$G", "streams", stream))
					})
				})
			}
		}
	}
	t.Run("plain", each("", mutations()))
	t.Run("encrypted", each("key", encryptedMutations()))
}

// asides are the copies of damaged streams that are kept.
func asides(t *testing.T, s *site) (dirs []string) {
	t.Helper()
	root := filepath.Join(filepath.Dir(s.host.StoreDir()), natsd.AsideName, "$G")
	found, err := os.ReadDir(root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for _, f := range found {
		dirs = append(dirs, f.Name())
	}
	return dirs
}

// TestDamagedDesired damages SITE_DESIRED in every way: the leaf starts, nobody is shown
// less than there was before all of it has come again, and it becomes what the hub has.
func TestDamagedDesired(t *testing.T) {
	t.Parallel()
	eachMutation(t, streams.SiteDesired, func(t *testing.T, storeKey string, damage func(string)) {
		s, ctx := newSite(t)
		s.storeKey = storeKey
		s.pace = quick
		b := respond(t, s)
		s.start(t, ctx)
		for i := range 75 {
			putDesiredAsync(t, s, fmt.Sprintf("cm-%d", i%30), i)
		}
		polltest.Eventually(t, "objects", func() bool { return backlog(t, ctx, s) == 0 && same(t, ctx, s) })
		acknowledgeOnDisk(t, ctx, s, streams.SiteDesired)
		polltest.Eventually(t, "comparison", func() bool { return b.seen(inventory.Equal) > 0 })
		s.cut(t)
		before := desiredSet(t, ctx, s)
		s.restart(t, ctx, damage)
		select {
		case <-s.store.Desired().Complete():
			if after := desiredSet(t, ctx, s); after != before {
				t.Errorf("desired state is shown although it is not what it was")
			}
		default:
			t.Log("waits for the hub")
		}
		if n := len(asides(t, s)); n > 1 {
			t.Errorf("%d copies are kept", n)
		}
		b.set(func() { b.states = nil })
		s.line.Heal()
		polltest.Eventually(t, "convergence", func() bool { return backlog(t, ctx, s) == 0 && same(t, ctx, s) })
		putDesired(t, ctx, s, "new", 1)
		polltest.Eventually(t, "comparison", func() bool { return b.seen(inventory.Equal) > 0 && same(t, ctx, s) })
		if after := desiredSet(t, ctx, s); after == before {
			t.Error("the new object is missing")
		}
		select {
		case <-s.store.Desired().Complete():
		case <-ctx.Done():
			t.Error("desired state is never shown again")
		}
	})
}

// acknowledgeOnDisk acknowledges everything that a stream has with a consumer whose state is on
// disk, as that of the node API is.
func acknowledgeOnDisk(t *testing.T, ctx context.Context, s *site, stream string) {
	t.Helper()
	if err := streams.EnsureConsumer(ctx, s.js, stream, streams.LocalConsumer(streams.ApplyConsumer, "", 256)); err != nil {
		t.Fatal(err)
	}
	c, err := s.js.Consumer(ctx, stream, streams.ApplyConsumer)
	if err != nil {
		t.Fatal(err)
	}
	batch, err := c.FetchNoWait(256)
	if err != nil {
		t.Fatal(err)
	}
	for m := range batch.Messages() {
		if err := m.DoubleAck(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

func desiredSet(t *testing.T, ctx context.Context, s *site) string {
	t.Helper()
	m, err := desired.Inventory(ctx, s.desired(t, ctx), "plant-a")
	if err != nil {
		t.Fatal(err)
	}
	return m.Digest()
}

// TestDamagedTelemetry damages SITE_TELEMETRY in every way while half of it waits for the
// link: the leaf starts, what can be read arrives, and what cannot is in a gap.
func TestDamagedTelemetry(t *testing.T) {
	t.Parallel()
	eachMutation(t, streams.SiteTelemetry, func(t *testing.T, storeKey string, damage func(string)) {
		s, ctx := newSite(t)
		s.storeKey = storeKey
		s.cfg.Storage.TelemetryBytes = 120 << 10 // so that blocks are small, and there are several
		respond(t, s)
		s.start(t, ctx)
		const forwarded, waiting, later = 30, 90, 10
		for i := range forwarded {
			s.record(t, ctx, i, 500)
		}
		polltest.Eventually(t, "records", func() bool { return count(t, ctx, s.hub, streams.Telemetry("plant-a")) == forwarded })
		s.cut(t)
		for i := range waiting {
			s.record(t, ctx, forwarded+i, 500)
		}
		acknowledgeOnDisk(t, ctx, s, streams.SiteTelemetry)
		s.restart(t, ctx, func(store string) {
			blocks, err := filepath.Glob(filepath.Join(store, "$G", "streams", streams.SiteTelemetry, "msgs", "*.blk"))
			if err != nil || len(blocks) < 3 {
				t.Errorf("%d blocks (%v), want one between the first and the last", len(blocks), err)
			}
			damage(store)
		})
		if n := len(asides(t, s)); n > 1 {
			t.Errorf("%d copies are kept", n)
		}
		for i := range later {
			s.record(t, ctx, forwarded+waiting+i, 500)
		}
		s.line.Heal()
		want := forwarded + waiting + later
		polltest.Eventually(t, "the last record", func() bool { return s.arrived(t, ctx, want-1) })
		lost, twice := covered(t, s.stored(t, ctx), want)
		t.Logf("%d lost, %d twice, %d dropped by count", lost, twice, s.store.Drops().Total())
		if got := s.store.Drops().Total(); got < uint64(lost) {
			t.Errorf("%d are counted as dropped, %d are missing", got, lost)
		}
	})
}

// covered checks that each of the numbers below want is at the hub or in a gap.
func covered(t *testing.T, all []stored, want int) (lost, twice int) {
	t.Helper()
	have, gone := make([]int, want), make([]bool, want)
	for _, one := range all {
		if one.gap == nil {
			have[one.number]++
			continue
		}
		for n := one.gap.From; n <= one.gap.To && int(n) <= want; n++ {
			gone[n-1] = true
		}
	}
	for n := range want {
		switch {
		case have[n] == 0 && !gone[n]:
			t.Fatalf("record %d is neither at the hub nor in a gap", n)
		case have[n] == 0:
			lost++
		case have[n] > 1:
			twice++
		}
	}
	return lost, twice
}

// TestUnreadableMessageIsFound damages a message of a leaf that runs: the next comparison
// finds it, and all parts are started again on a store that is created again.
func TestUnreadableMessageIsFound(t *testing.T) {
	t.Parallel()
	s, ctx, _ := startChecked(t, 40)
	want := desiredSet(t, ctx, s)
	store := s.host.StoreDir()
	s.restart(t, ctx, func(string) {
		// The folder of a stream that was closed well, with its index: one body flipped.
		edit(t, filepath.Join(store, "$G", "streams", streams.SiteDesired, "msgs", "1.blk"), func(b []byte) []byte {
			b[len(b)-40] ^= 1
			return b
		})
	})
	if got := counted(t, s, "petiole_leaf_streams_rebuilt_total"); got != 1 {
		t.Errorf("%v streams rebuilt, want 1", got)
	}
	polltest.Eventually(t, "convergence", func() bool { return same(t, ctx, s) })
	if got := desiredSet(t, ctx, s); got != want {
		t.Error("not what it was")
	}
	if !slices.Contains(s.store.Degraded(), streams.DegradedStore) {
		t.Error("presence does not say so")
	}
}
