package journal

import (
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
