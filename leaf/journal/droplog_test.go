package journal

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/petiole-io/petiole/streams"
)

// TestForwardedIsKnownForEachIncarnation notes positions of three starts of a leaf: for a store that
// is put back, the position of the start that it is from counts, also after the file was read again.
func TestForwardedIsKnownForEachIncarnation(t *testing.T) {
	dir := t.TempDir()
	l, err := OpenDropLog(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []streams.SitePosition{{Incarnation: 101, Seq: 10}, {Incarnation: 101, Seq: 20}, {Incarnation: 102, Seq: 50}, {Incarnation: 103, Seq: 70}} {
		if err := l.SetForwarded(streams.SiteTelemetry, at); err != nil {
			t.Fatal(err)
		}
	}
	if l, err = OpenDropLog(dir); err != nil {
		t.Fatal(err)
	}
	for name, one := range map[string]struct {
		of    Timeline
		want  uint64
		known bool
	}{
		"the last one":                {Timeline{{101, 1}, {102, 21}, {103, 51}}, 70, true},
		"a copy from before":          {Timeline{{101, 1}, {104, 31}}, 20, true},
		"a copy from before, shorter": {Timeline{{101, 1}, {104, 15}}, 14, true},
		"created again":               {Timeline{{105, 1}}, 0, false},
	} {
		if got, known := l.LastForwarded(streams.SiteTelemetry, one.of); got != one.want || known != one.known {
			t.Errorf("%s: %d, %t; want %d, %t", name, got, known, one.want, one.known)
		}
	}
}

// TestEventsWait notes where Events wait, and reads it as a later start, an older copy of the store, a
// stream that was created again, and after the file was damaged: then all Events are sent.
func TestEventsWait(t *testing.T) {
	dir := t.TempDir()
	l, err := OpenDropLog(dir)
	if err != nil {
		t.Fatal(err)
	}
	if l.EventsWait(streams.SiteReported) {
		t.Error("Events wait although none was passed over")
	}
	first := Timeline{{101, 1}, {102, 21}}
	for _, one := range []struct {
		seq    uint64
		begins bool
		from   uint64
	}{{30, true, 30}, {40, false, 30}, {25, false, 25}} {
		if begins, err := l.SetEventsWait(streams.SiteReported, first, one.seq); err != nil || begins != one.begins {
			t.Errorf("%d: begins %t, %v; want %t", one.seq, begins, err, one.begins)
		}
		if l, err = OpenDropLog(dir); err != nil {
			t.Fatal(err)
		}
		if from := l.FirstWaitingEvent(streams.SiteReported, first); from != one.from || !l.EventsWait(streams.SiteReported) {
			t.Errorf("after %d Events wait from %d, want %d", one.seq, from, one.from)
		}
	}
	for name, one := range map[string]struct {
		of   Timeline
		want uint64
	}{
		"a later start":  {Timeline{{101, 1}, {102, 21}, {103, 51}}, 25},
		"an older copy":  {Timeline{{101, 1}, {102, 21}, {104, 23}}, 22},
		"another copy":   {Timeline{{101, 1}, {104, 11}}, 1},
		"created again":  {Timeline{{105, 1}}, 1},
		"an empty start": {Timeline{{101, 1}, {102, 1}, {103, 1}}, 1},
	} {
		if got := l.FirstWaitingEvent(streams.SiteReported, one.of); got != one.want {
			t.Errorf("%s: from %d, want %d", name, got, one.want)
		}
	}
	if err := l.ClearEventsWait(streams.SiteReported); err != nil {
		t.Fatal(err)
	}
	if l, err = OpenDropLog(dir); err != nil || l.EventsWait(streams.SiteReported) {
		t.Errorf("Events still wait: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, dropLogName), []byte(`{"SITE_REPO`), 0o600); err != nil {
		t.Fatal(err)
	}
	if l, err = OpenDropLog(dir); err == nil {
		t.Error("a damaged file is read")
	}
	if from := l.FirstWaitingEvent(streams.SiteReported, first); from != 1 || !l.EventsWait(streams.SiteReported) {
		t.Errorf("after damage Events wait from %d, want 1", from)
	}
}
