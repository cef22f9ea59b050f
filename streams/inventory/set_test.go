package inventory

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/petiole-io/petiole/streams"
)

func genEntry(t *rapid.T, label string) Entry {
	return Entry{
		Subject: fmt.Sprintf("desired.s._._.configmaps.default.c%d", rapid.IntRange(0, 40).Draw(t, label)),
		UID:     rapid.StringMatching(`[ab]{1}`).Draw(t, "uid"), Version: rapid.StringMatching(`[1-3]`).Draw(t, "version"),
	}
}

// Two sets have the same digest exactly if they are equal, regardless of the order of changes,
// and the buckets that differ are those of the entries that differ.
func TestInventoryIsADigestOfTheSet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sets := [2]map[string]Entry{{}, {}}
		var m [2]Set
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			side := rapid.IntRange(0, 1).Draw(t, "side")
			e := genEntry(t, "name")
			if old, ok := sets[side][e.Subject]; ok {
				m[side].Remove(old)
				delete(sets[side], e.Subject)
				if rapid.Bool().Draw(t, "drop") {
					continue
				}
			}
			sets[side][e.Subject] = e
			m[side].Add(e)
		}
		want := map[int]bool{}
		for side := range sets {
			for s, e := range sets[side] {
				if sets[1-side][s] != e {
					want[e.Bucket()] = true
				}
			}
		}
		got, err := m[0].Differing(m[1].Buckets())
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range got {
			if !want[b] {
				t.Fatalf("bucket %d is said to differ and does not", b)
			}
		}
		if len(got) != len(want) {
			t.Fatalf("differing buckets %v, want %v", got, want)
		}
		if equal := m[0].Digest() == m[1].Digest(); equal != (len(want) == 0) {
			t.Fatalf("digests equal: %v, sets equal: %v", equal, len(want) == 0)
		}
		if m[0].Count() != int64(len(sets[0])) {
			t.Fatalf("count %d, want %d", m[0].Count(), len(sets[0]))
		}
	})
}

func TestInventoryLeavesOutTombstonesAndParts(t *testing.T) {
	put := streams.Message{Op: streams.OpPut, UID: "u", Version: "7", Epoch: "e", Hash: "h"}.Encode("desired.s._._.pods.d.p")
	e, ok := EntryOf(put.Subject, put.Header)
	if !ok || e != (Entry{put.Subject, "u", "7", "e", "h"}) {
		t.Errorf("EntryOf(put) = %+v, %v", e, ok)
	}
	gone := streams.Message{Op: streams.OpDelete, UID: "u"}.Encode("desired.s._._.pods.d.p")
	if _, ok := EntryOf(gone.Subject, gone.Header); ok {
		t.Error("a tombstone is in the inventory")
	}
	if _, ok := EntryOf(streams.PartSubject("desired.s._._.pods.d.p", 0), nil); ok {
		t.Error("a part is in the inventory")
	}
	if _, err := new(Set).Differing(slices.Repeat([]byte{0}, 7)); err == nil {
		t.Error("short buckets are accepted")
	}
}
