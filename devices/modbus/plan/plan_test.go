package plan

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/petiole-io/petiole/devices/modbus/codec"
	"github.com/petiole-io/petiole/devices/modbus/wire"
)

// Every point is in exactly one request, whole; no request is longer than allowed,
// none touches a hole; and no plan costs more than one request for each point.
func TestPlanKeepsItsRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := Limits{Registers: rapid.IntRange(4, 125).Draw(t, "registers"), Bits: rapid.IntRange(4, 2000).Draw(t, "bits")}
		n := rapid.IntRange(0, 40).Draw(t, "points")
		points := make([]Point, n)
		for i := range points {
			r := codec.Range{Table: codec.Table(rapid.IntRange(0, 3).Draw(t, "table")), Start: rapid.IntRange(0, 400).Draw(t, "address")}
			r.End = r.Start + rapid.IntRange(1, 4).Draw(t, "count")
			points[i] = Point{Range: r, Index: i}
		}
		var holes []codec.Range
		for range rapid.IntRange(0, 4).Draw(t, "holes") {
			start := rapid.IntRange(0, 400).Draw(t, "start")
			holes = append(holes, codec.Range{Table: codec.Table(rapid.IntRange(0, 3).Draw(t, "table")), Start: start, End: start + rapid.IntRange(1, 10).Draw(t, "length")})
		}
		c := Cost{request: time.Duration(rapid.IntRange(1, 1000).Draw(t, "request")), register: time.Duration(rapid.IntRange(0, 50).Draw(t, "register"))}
		seen := map[int]bool{}
		total, single := time.Duration(0), time.Duration(0)
		for _, b := range blocks(points, l, c, holes) {
			total += c.Of(b.Table, b.Count)
			if b.Count > l.Of(b.Table) {
				t.Fatalf("%d items in one request", b.Count)
			}
			if len(b.Points) > 1 && inHole(b.Table, b.Start, b.End(), holes) {
				t.Fatal("in a hole")
			}
			for _, p := range b.Points {
				if p.Table != b.Table || p.Start < b.Start || p.End > b.End() {
					t.Fatal("a point is split")
				}
				if seen[p.Index] {
					t.Fatal("a point is read twice")
				}
				seen[p.Index] = true
				single += c.Of(p.Table, p.End-p.Start)
			}
		}
		if len(seen) != n || total > single {
			t.Fatal(len(seen), n, total, single)
		}
	})
}

// The gap that is worth reading follows from the line: at 9600 baud and a slave of
// 20 ms about nineteen registers (11 bits a character).
func TestPlanGapFollowsTheLine(t *testing.T) {
	slow := wire.Endpoint{Mode: wire.RTU, Serial: wire.Serial{Baud: 9600, DataBits: 8, StopBits: 1, Parity: "even"}}
	gap := func(e wire.Endpoint, turnaround time.Duration) int {
		for g := 1; g < 124; g++ {
			points := []Point{{Range: codec.Range{Table: codec.Holdings, End: 1}}, {Index: 1, Range: codec.Range{Table: codec.Holdings, Start: 1 + g, End: 2 + g}}}
			if len(blocks(points, Limits{Registers: 125, Bits: 2000}, lineCost(e, turnaround), nil)) == 2 {
				return g
			}
		}
		return 124
	}
	for turn, want := range map[time.Duration]int{0: 10, 5 * time.Millisecond: 12, 20 * time.Millisecond: 19, 50 * time.Millisecond: 32} {
		if g := gap(slow, turn); g < want-1 || g > want+1 {
			t.Errorf("turnaround %s: gaps up to %d are read, %d expected", turn, g, want)
		}
	}
	if g := gap(wire.Endpoint{Mode: wire.TCP}, 2*time.Millisecond); g < 123 {
		t.Errorf("TCP: %d", g)
	}
}
