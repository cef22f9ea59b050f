package bridge

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/petiole-io/petiole/streams"
)

var at100 = streams.HubPosition{Seq: 100, Identity: "id"}

type entries = map[string]streams.InventoryEntry

func holdingsOf(want entries) expectedState {
	m := new(streams.Inventory)
	for _, e := range want {
		m.Add(e)
	}
	return expectedState{last: at100, idle: true, inventory: m, entriesIn: func(buckets map[int]bool) map[string]streams.InventoryEntry {
		out := entries{}
		for s, e := range want {
			if buckets[e.Bucket()] {
				out[s] = e
			}
		}
		return out
	}}
}

// check runs the whole protocol for a site with the content is, with at most so many entries
// in one query, and returns the difference found.
func check(t interface{ Fatalf(string, ...any) }, have expectedState, is entries, most int) difference {
	var m streams.Inventory
	for _, e := range is {
		m.Add(e)
	}
	q := streams.InventoryQuery{HubPosition: at100, Count: m.Count(), Digest: m.Digest()}
	for range 8 {
		a, d, err := compare("s", have, q)
		if err != nil {
			t.Fatalf("%+v: %v", q, err)
		}
		switch a.State {
		case streams.InventorySendBuckets:
			q.Buckets, q.Of, q.Entries = m.Buckets(), nil, nil
		case streams.InventorySendEntries:
			q.Buckets, q.Of, q.Entries = nil, nil, nil
			for _, b := range a.Buckets {
				var within []streams.InventoryEntry
				for _, e := range is {
					if e.Bucket() == b {
						within = append(within, e)
					}
				}
				if len(q.Of) > 0 && len(q.Entries)+len(within) > most {
					break
				}
				q.Of, q.Entries = append(q.Of, b), append(q.Entries, within...)
			}
		case streams.InventoryEqual, streams.InventoryRepairing:
			return d
		default:
			t.Fatalf("answer is %+v", a)
		}
	}
	t.Fatalf("no end after 8 rounds")
	return difference{}
}

func genSet(t *rapid.T, label string) entries {
	set := entries{}
	for _, i := range rapid.SliceOfDistinct(rapid.IntRange(0, 60), rapid.ID[int]).Draw(t, label) {
		s := fmt.Sprintf("desired.s._._.configmaps.default.c%d", i)
		set[s] = streams.InventoryEntry{Subject: s, UID: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "uid"), Version: rapid.SampledFrom([]string{"1", "2"}).Draw(t, "version")}
	}
	return set
}

// For any content of a site: repairing the differences makes both sides equal, changes no
// equal entry, and terminates.
func TestComparisonsConverge(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want, is := genSet(t, "want"), genSet(t, "is")
		have, most := holdingsOf(want), rapid.IntRange(1, 20).Draw(t, "most")
		for range 1 + streams.InventoryBuckets {
			d := check(t, have, is, most)
			if d.size() == 0 {
				if !maps.Equal(want, is) {
					t.Fatalf("nothing to repair, and %v is not %v", is, want)
				}
				return
			}
			for _, e := range d.missing {
				if want[e.Subject] != e || is[e.Subject] == e {
					t.Fatalf("%+v is repaired; it should be %+v and is %+v", e, want[e.Subject], is[e.Subject])
				}
				is[e.Subject] = e
			}
			for _, e := range d.extra {
				if _, ok := want[e.Subject]; ok {
					t.Fatalf("%+v is dismissed and wanted", e)
				}
				delete(is, e.Subject)
			}
		}
		t.Fatalf("no end")
	})
}

func TestComparisonWaits(t *testing.T) {
	t.Parallel()
	subject := "desired.s._._.configmaps.default.c"
	e := streams.InventoryEntry{Subject: subject, UID: "a"}
	want := entries{subject: e}
	q := streams.InventoryQuery{HubPosition: at100, Digest: "other"}
	for name, change := range map[string]func(*expectedState, *streams.InventoryQuery){
		"something is being published": func(h *expectedState, _ *streams.InventoryQuery) { h.idle = false },
		"the site is behind":           func(_ *expectedState, q *streams.InventoryQuery) { q.Seq = 99 },
		"another stream":               func(_ *expectedState, q *streams.InventoryQuery) { q.Identity = "former" },
		"a new site, not served yet":   func(_ *expectedState, q *streams.InventoryQuery) { q.HubPosition = streams.HubPosition{} },
	} {
		h, q := holdingsOf(want), q
		change(&h, &q)
		if a, _, err := compare("s", h, q); err != nil || a.State != streams.InventoryBehind {
			t.Errorf("%s: %+v, %v", name, a, err)
		}
	}
	h := holdingsOf(nil)
	h.last.Seq = 0
	empty := new(streams.Inventory)
	if a, _, err := compare("s", h, streams.InventoryQuery{Digest: empty.Digest()}); err != nil || a.State != streams.InventoryEqual {
		t.Errorf("a site without anything: %+v, %v", a, err)
	}
	// A change between two queries of one check restarts it.
	q.Of, q.Entries = []int{e.Bucket()}, []streams.InventoryEntry{e}
	if a, _, err := compare("s", holdingsOf(want), q); err != nil || a.State != streams.InventorySendBuckets {
		t.Errorf("a bucket that is equal by now: %+v, %v", a, err)
	}
}

func FuzzManifestQuery(f *testing.F) {
	f.Add([]byte(`{"identity":"id","position":100,"count":1,"digest":"x"}`))
	f.Add([]byte(`{"identity":"id","position":100,"buckets":"AAAA"}`))
	f.Add([]byte(`{"identity":"id","position":100,"of":[1,2],"entries":[{"subject":"desired.s._._.pods.d.p","uid":"u"}]}`))
	subject := "desired.s._._.configmaps.default.c"
	want := entries{subject: {Subject: subject, UID: "a"}}
	f.Fuzz(func(t *testing.T, data []byte) {
		q, err := decodeInventoryQuery(data)
		if err != nil {
			if !errors.Is(err, errQuery) {
				t.Fatal(err)
			}
			return
		}
		if len(q.Of) > streams.InventoryBuckets || len(q.Entries) > 1+len(data)/minEntryBytes {
			t.Fatalf("%d bytes became %d buckets and %d entries", len(data), len(q.Of), len(q.Entries))
		}
		_, d, err := compare("s", holdingsOf(want), q)
		if err != nil && !errors.Is(err, errQuery) {
			t.Fatal(err)
		}
		for _, e := range slices.Concat(d.missing, d.extra) {
			if !strings.HasPrefix(e.Subject, "desired.s.") {
				t.Fatalf("%+v is not of the site", e)
			}
		}
	})
}

// The values that a site sends are copied into tombstones, which the hub and the next bridge
// keep: no site can fill them, or make the next epoch's number overflow.
func TestEntriesAreBounded(t *testing.T) {
	t.Parallel()
	e := streams.InventoryEntry{Subject: "desired.s._._.configmaps.default.c", UID: "u", Version: "1", Epoch: "3-u", Hash: "h"}
	long := strings.Repeat("x", maxEntryField+1)
	for name, c := range map[string]struct {
		change func(*streams.InventoryEntry)
		epoch  uint64
		ok     bool
	}{
		"as it is":            {func(*streams.InventoryEntry) {}, 3, true},
		"as long as may be":   {func(e *streams.InventoryEntry) { e.Hash = long[1:] }, 3, true},
		"a later epoch":       {func(e *streams.InventoryEntry) { e.Epoch = "9-u" }, 3, true},
		"long UID":            {func(e *streams.InventoryEntry) { e.UID = long }, 3, false},
		"long version":        {func(e *streams.InventoryEntry) { e.Version = long }, 3, false},
		"long epoch":          {func(e *streams.InventoryEntry) { e.Epoch = long }, 3, false},
		"long hash":           {func(e *streams.InventoryEntry) { e.Hash = long }, 3, false},
		"last version":        {func(e *streams.InventoryEntry) { e.Version = "18446744073709551615" }, 3, false},
		"last epoch":          {func(e *streams.InventoryEntry) { e.Epoch = "18446744073709551615-x" }, 3, false},
		"high epoch":          {func(e *streams.InventoryEntry) { e.Epoch = fmt.Sprint(uint64(maxEpoch)+1, "-x") }, 3, false},
		"high, and there":     {func(e *streams.InventoryEntry) { e.Epoch = fmt.Sprint(uint64(maxEpoch)+1, "-x") }, maxEpoch + 1, true},
		"high, and not there": {func(e *streams.InventoryEntry) { e.Epoch = fmt.Sprint(uint64(maxEpoch)+2, "-x") }, maxEpoch + 1, false},
	} {
		h, said := holdingsOf(nil), e
		h.epoch = c.epoch
		c.change(&said)
		q := streams.InventoryQuery{HubPosition: at100, Count: 1, Of: []int{said.Bucket()}, Entries: []streams.InventoryEntry{said}}
		_, d, err := compare("s", h, q)
		if c.ok && (err != nil || len(d.extra) != 1) || !c.ok && !errors.Is(err, errQuery) {
			t.Errorf("%s: %+v, %v", name, d, err)
		}
	}
}
