package journal

import (
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"github.com/petiole-io/petiole/streams"
)

// TestLostSince compares a checkpoint with what a stream has become.
func TestLostSince(t *testing.T) {
	const made = 100
	at := func(incarnation int64, seq uint64) streams.SitePosition {
		return streams.SitePosition{Incarnation: incarnation, Seq: seq}
	}
	lives := func(later ...incarnation) Timeline { return append(Timeline{{id: made}}, later...) }
	was := Checkpoint{Created: made, Last: 50, Timeline: lives(incarnation{101, 1}, incarnation{102, 21}).String()}
	for name, one := range map[string]struct {
		l     Timeline
		noted streams.SitePosition
		want  Range // zero: nothing
	}{
		"nothing happened":                {lives(incarnation{101, 1}, incarnation{102, 21}), at(102, 30), Range{}},
		"started again":                   {lives(incarnation{101, 1}, incarnation{102, 21}, incarnation{103, 51}), at(102, 30), Range{}},
		"went on, started again":          {lives(incarnation{101, 1}, incarnation{102, 21}, incarnation{103, 61}), at(102, 30), Range{}},
		"rolled back":                     {lives(incarnation{101, 1}, incarnation{103, 21}), at(102, 30), Range{31, 50}},
		"rolled back, all forwarded":      {lives(incarnation{101, 1}, incarnation{103, 21}), at(102, 50), Range{}},
		"rolled back, little forwarded":   {lives(incarnation{101, 1}, incarnation{103, 21}), at(101, 10), Range{21, 50}},
		"rolled back, started twice":      {lives(incarnation{101, 1}, incarnation{103, 21}, incarnation{104, 90}), at(102, 30), Range{31, 50}},
		"created again":                   {Timeline{{id: 200}, {201, 1}}, at(102, 30), Range{31, 50}},
		"noted in an earlier life":        {Timeline{{id: 200}, {201, 1}}, at(7, 500), Range{1, 50}},
		"created again with the messages": {Timeline{{id: 200}, {201, 51}}, at(102, 30), Range{}},
	} {
		got, ok := was.LostSince(one.l, one.noted)
		if ok != (one.want != Range{}) || ok && got.Range != one.want {
			t.Errorf("%s: %v, %t; want %v", name, got, ok, one.want)
		}
	}
}

// TestUnresolvedCheckpointsAreOnDisk asks when the file is synced: with what must not be forgotten
// in it, and when that goes.
func TestUnresolvedCheckpointsAreOnDisk(t *testing.T) {
	m := OpenCheckpoints(t.TempDir())
	var synced []bool
	var fails error
	m.write = func(path string, data []byte, sync bool) error {
		synced = append(synced, sync)
		return errors.Join(fails, writeCheckpoints(path, data, sync))
	}
	put := func(stream string, k Checkpoint) {
		if err := m.Put(stream, k); !errors.Is(err, fails) {
			t.Error(err)
		}
	}
	put("a", Checkpoint{Last: 1})
	put("b", Checkpoint{Last: 1, Incomplete: true})
	put("a", Checkpoint{Last: 2}) // would tear the other one with it
	put("b", Checkpoint{Last: 1})
	put("a", Checkpoint{Last: 3})
	put("a", Checkpoint{Last: 3})
	fails = errors.New("no room")
	put("a", Checkpoint{Last: 3, Lost: []LostRange{{1, Range{2, 3}}}})
	fails = nil
	put("a", Checkpoint{Last: 3, Lost: []LostRange{{1, Range{2, 3}}}})
	if want := []bool{false, true, true, true, false, true, true}; !slices.Equal(synced, want) {
		t.Errorf("synced %v, want %v", synced, want)
	}
	if got, _ := OpenCheckpoints(filepath.Dir(m.path)).Get("a"); len(got.Lost) != 1 {
		t.Errorf("read again: %+v", got)
	}
}

// TestProgressIsWrittenSeldom puts nothing but progress: the file is not written each time, and
// Flush writes it.
func TestProgressIsWrittenSeldom(t *testing.T) {
	m := OpenCheckpoints(t.TempDir())
	for last := range uint64(100) {
		if err := m.Put("a", Checkpoint{Created: 7, Last: last + 1}); err != nil {
			t.Fatal(err)
		}
	}
	read := func() uint64 {
		cp, _ := OpenCheckpoints(filepath.Dir(m.path)).Get("a")
		return cp.Last
	}
	if got, _ := m.Get("a"); got.Last != 100 || read() != 1 {
		t.Errorf("known: %d, in the file: %d; want 100 and 1", got.Last, read())
	}
	m.written = m.written.Add(-progressInterval)
	if err := m.Put("a", Checkpoint{Created: 7, Last: 100}); err != nil || read() != 100 {
		t.Errorf("in the file after %v: %d, want 100; %v", progressInterval, read(), err)
	}
	if err := m.Put("a", Checkpoint{Created: 7, Last: 101}); err != nil || read() != 100 {
		t.Error(read(), err)
	}
	if err := m.Flush(); err != nil || read() != 101 {
		t.Errorf("in the file after Flush: %d, want 101; %v", read(), err)
	}
}
