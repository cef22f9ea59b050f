package inventory

import (
	"context"
	"encoding/json"
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

type entries = map[string]Entry

func expect(want entries) Expected {
	return Expected{Last: at100, Idle: true, Set: setOf(want), EntriesIn: func(buckets map[int]bool) map[string]Entry {
		out := entries{}
		for s, e := range want {
			if buckets[e.Bucket()] {
				out[s] = e
			}
		}
		return out
	}}
}

func setOf(all entries) *Set {
	s := new(Set)
	for _, e := range all {
		s.Add(e)
	}
	return s
}

// site is a site that asks a bridge, which expects want, without a network between them.
type site struct {
	want  Expected
	is    entries
	found Difference
	asked int
}

func (s *site) Read(_ context.Context, f func(streams.HubPosition, func(func(Entry)) error) error) error {
	return f(at100, func(yield func(Entry)) error {
		for _, e := range s.is {
			yield(e)
		}
		return nil
	})
}

// check does what the bridge does with a query of the site "s".
func check(want Expected, q Query) (Answer, Difference, error) {
	if err := CheckQuery("s", q, 1); err != nil {
		return Answer{}, Difference{}, err
	}
	return Check(want, q)
}

// Ask sends the query and the answer in the form that they have on the wire.
func (s *site) Ask(_ context.Context, q Query) (Answer, error) {
	s.asked++
	data, err := json.Marshal(q)
	if err != nil {
		return Answer{}, err
	}
	if q, err = DecodeQuery(data); err != nil {
		return Answer{}, err
	}
	var a Answer
	if a, s.found, err = check(s.want, q); err != nil {
		return Answer{}, err
	}
	if data, err = json.Marshal(a); err != nil {
		return Answer{}, err
	}
	return DecodeAnswer(data)
}

func genSet(t *rapid.T, label string) entries {
	set := entries{}
	for _, i := range rapid.SliceOfDistinct(rapid.IntRange(0, 60), rapid.ID[int]).Draw(t, label) {
		s := fmt.Sprintf("desired.s._._.configmaps.default.c%d", i)
		set[s] = Entry{Subject: s, UID: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "uid"), Version: rapid.SampledFrom([]string{"1", "2"}).Draw(t, "version")}
	}
	return set
}

// For any content of a site: a comparison ends after three queries, repairing the differences
// makes both sides equal, changes no equal entry, and terminates. A few entries fit into one
// query.
func TestComparisonsConverge(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want, is := genSet(t, "want"), genSet(t, "is")
		s, limit := &site{want: expect(want), is: is}, rapid.IntRange(1000, 4000).Draw(t, "limit")
		for range 1 + NumBuckets {
			s.asked, s.found = 0, Difference{}
			state, err := Compare(context.Background(), s, limit, limit)
			if err != nil || s.asked > 3 || (state == Equal) != (s.found.Size() == 0) {
				t.Fatalf("%s after %d queries, difference %+v, %v", state, s.asked, s.found, err)
			}
			if state == Equal {
				if !maps.Equal(want, is) {
					t.Fatalf("nothing to repair, and %v is not %v", is, want)
				}
				return
			}
			for _, e := range s.found.Missing {
				if want[e.Subject] != e || is[e.Subject] == e {
					t.Fatalf("%+v is repaired; it should be %+v and is %+v", e, want[e.Subject], is[e.Subject])
				}
				is[e.Subject] = e
			}
			for _, e := range s.found.Extra {
				if _, ok := want[e.Subject]; ok {
					t.Fatalf("%+v is deleted and wanted", e)
				}
				delete(is, e.Subject)
			}
		}
		t.Fatalf("no end")
	})
}

// What changes between two queries makes the site wait, and ask again.
func TestChangeDuringAComparison(t *testing.T) {
	t.Parallel()
	subject := "desired.s._._.configmaps.default.c"
	s := &changing{site: site{want: expect(entries{subject: {Subject: subject, UID: "a"}}), is: entries{}}}
	for before := range 3 {
		s.asked, s.change = 0, func(asked int) {
			s.want.Last.Seq = 100
			if asked == before {
				s.want.Last.Seq = 101
			}
		}
		if state, err := Compare(t.Context(), s, 1000, 1000); err != nil || state != Behind {
			t.Errorf("with a message published before query %d: %s, %v", before, state, err)
		}
	}
	s.change = func(asked int) {
		if asked == 2 {
			s.want = expect(entries{})
			s.want.Set = setOf(entries{"x": {Subject: "x"}})
		}
	}
	s.asked = 0
	if state, err := Compare(t.Context(), s, 1000, 1000); err != nil || state != Behind {
		t.Errorf("with a set that changed before the last query: %s, %v", state, err)
	}
}

// changing is a site whose bridge changes between two queries.
type changing struct {
	site
	change func(asked int)
}

func (c *changing) Ask(ctx context.Context, q Query) (Answer, error) {
	c.change(c.asked)
	return c.site.Ask(ctx, q)
}

// A bridge whose answers make no sense ends a comparison with an error.
func TestCompareRejectsAnswers(t *testing.T) {
	t.Parallel()
	for answer, text := range map[string]string{
		`{"state":"x"}`:                            `the bridge answers "x"`,
		`{"error":"no Site"}`:                      "no Site",
		`{"state":"send-entries"}`:                 "no bucket",
		`{"state":"send-entries","buckets":[256]}`: "bucket 256",
		`{"state":"send-entries","buckets":[-1]}`:  "bucket -1",
		`{`: "decode the answer",
	} {
		_, err := Compare(t.Context(), &answering{answer: answer}, 1000, 1000)
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v, want %q", answer, err, text)
		}
	}
	full := &answering{site: site{is: entries{"a": {Subject: "a", Hash: strings.Repeat("x", 1000)}}}, answer: fmt.Sprintf(`{"state":"send-entries","buckets":[%d]}`, Entry{Subject: "a"}.Bucket())}
	if _, err := Compare(t.Context(), full, 1000, 1000); err == nil || !strings.Contains(err.Error(), "a message 1000") {
		t.Errorf("an entry that does not fit: %v", err)
	}
}

// answering is a site that always gets the same answer.
type answering struct {
	site
	answer string
}

func (a *answering) Ask(context.Context, Query) (Answer, error) {
	return DecodeAnswer([]byte(a.answer))
}

func TestComparisonWaits(t *testing.T) {
	t.Parallel()
	subject := "desired.s._._.configmaps.default.c"
	e := Entry{Subject: subject, UID: "a"}
	want := entries{subject: e}
	q := Query{HubPosition: at100, Digest: "other"}
	for name, change := range map[string]func(*Expected, *Query){
		"something is being published": func(h *Expected, _ *Query) { h.Idle = false },
		"the site is behind":           func(_ *Expected, q *Query) { q.Seq = 99 },
		"another stream":               func(_ *Expected, q *Query) { q.Identity = "former" },
		"a new site, not served yet":   func(_ *Expected, q *Query) { q.HubPosition = streams.HubPosition{} },
	} {
		h, q := expect(want), q
		change(&h, &q)
		if a, _, err := check(h, q); err != nil || a.State != Behind {
			t.Errorf("%s: %+v, %v", name, a, err)
		}
	}
	h := expect(nil)
	h.Last.Seq = 0
	empty := new(Set)
	if a, _, err := check(h, Query{Digest: empty.Digest()}); err != nil || a.State != Equal {
		t.Errorf("a site without anything: %+v, %v", a, err)
	}
	// A change between two queries of one check restarts it.
	q.Of, q.Entries = []int{e.Bucket()}, []Entry{e}
	if a, _, err := check(expect(want), q); err != nil || a.State != SendBuckets {
		t.Errorf("a bucket that is equal by now: %+v, %v", a, err)
	}
}

func FuzzQuery(f *testing.F) {
	f.Add([]byte(`{"identity":"id","position":100,"count":1,"digest":"x"}`))
	f.Add([]byte(`{"identity":"id","position":100,"buckets":"AAAA"}`))
	f.Add([]byte(`{"identity":"id","position":100,"of":[1,2],"entries":[{"subject":"desired.s._._.pods.d.p","uid":"u"}]}`))
	subject := "desired.s._._.configmaps.default.c"
	want := entries{subject: {Subject: subject, UID: "a"}}
	f.Fuzz(func(t *testing.T, data []byte) {
		q, err := DecodeQuery(data)
		if err != nil {
			if !errors.Is(err, ErrQuery) {
				t.Fatal(err)
			}
			return
		}
		if len(q.Of) > NumBuckets || len(q.Entries) > 1+len(data)/minEntryBytes {
			t.Fatalf("%d bytes became %d buckets and %d entries", len(data), len(q.Of), len(q.Entries))
		}
		_, d, err := check(expect(want), q)
		if err != nil && !errors.Is(err, ErrQuery) {
			t.Fatal(err)
		}
		for _, e := range slices.Concat(d.Missing, d.Extra) {
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
	e := Entry{Subject: "desired.s._._.configmaps.default.c", UID: "u", Version: "1", Epoch: "3-u", Hash: "h"}
	long := strings.Repeat("x", maxEntryField+1)
	for name, c := range map[string]struct {
		change func(*Entry)
		epoch  uint64
		ok     bool
	}{
		"as it is":            {func(*Entry) {}, 3, true},
		"as long as may be":   {func(e *Entry) { e.Hash = long[1:] }, 3, true},
		"a later epoch":       {func(e *Entry) { e.Epoch = "9-u" }, 3, true},
		"long UID":            {func(e *Entry) { e.UID = long }, 3, false},
		"long version":        {func(e *Entry) { e.Version = long }, 3, false},
		"long epoch":          {func(e *Entry) { e.Epoch = long }, 3, false},
		"long hash":           {func(e *Entry) { e.Hash = long }, 3, false},
		"last version":        {func(e *Entry) { e.Version = "18446744073709551615" }, 3, false},
		"last epoch":          {func(e *Entry) { e.Epoch = "18446744073709551615-x" }, 3, false},
		"high epoch":          {func(e *Entry) { e.Epoch = fmt.Sprint(uint64(maxEpoch)+1, "-x") }, 3, false},
		"high, and there":     {func(e *Entry) { e.Epoch = fmt.Sprint(uint64(maxEpoch)+1, "-x") }, maxEpoch + 1, true},
		"high, and not there": {func(e *Entry) { e.Epoch = fmt.Sprint(uint64(maxEpoch)+2, "-x") }, maxEpoch + 1, false},
	} {
		said := e
		c.change(&said)
		q := Query{HubPosition: at100, Count: 1, Of: []int{said.Bucket()}, Entries: []Entry{said}}
		err := CheckQuery("s", q, c.epoch)
		if c.ok != (err == nil) || !c.ok && !errors.Is(err, ErrQuery) {
			t.Errorf("%s: %v", name, err)
		}
		if _, d, err := Check(expect(nil), q); c.ok && (err != nil || len(d.Extra) != 1) {
			t.Errorf("%s: %+v, %v", name, d, err)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"state":"send-entries","buckets":[1,255]}`))
	f.Add([]byte(`{"state":"equal"}`))
	f.Add([]byte(`{"error":"x"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := DecodeAnswer(data)
		if err != nil {
			return
		}
		var sizes [NumBuckets]int
		if a.State == SendEntries {
			of, err := fitting(a.Buckets, &sizes, 1000, 1000)
			if err == nil && len(of) != len(a.Buckets) {
				t.Fatalf("%d of %d empty buckets fit", len(of), len(a.Buckets))
			}
		}
	})
}

// BenchmarkLargestQuery: what the largest query that fits into a message costs, before the lock of
// all sites and under it.
func BenchmarkLargestQuery(b *testing.B) {
	q := Query{Of: make([]int, NumBuckets)}
	for i := range q.Of {
		q.Of[i] = i
	}
	for size := 0; size < 1<<20; {
		e := Entry{Subject: fmt.Sprint("desired.s._._.configmaps.default.c-", len(q.Entries)), UID: "u", Version: "1", Epoch: "1-u", Hash: "h"}
		data, err := json.Marshal(e)
		if err != nil {
			b.Fatal(err)
		}
		q.Entries = append(q.Entries, e)
		size += len(data) + 1
	}
	b.Run("CheckQuery", func(b *testing.B) {
		for b.Loop() {
			if err := CheckQuery("s", q, 1); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Check", func(b *testing.B) {
		want := expect(entries{})
		want.Last = q.HubPosition
		for b.Loop() {
			if _, d, err := Check(want, q); err != nil || len(d.Extra) != len(q.Entries) {
				b.Fatalf("%d extra: %v", len(d.Extra), err)
			}
		}
	})
}
