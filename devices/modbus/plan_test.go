package modbus

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/modbus/codec"
	"github.com/petiole-io/petiole/devices/modbus/wire"
)

// Every point is in exactly one request, whole; no request is longer than allowed,
// none touches a hole; and no plan costs more than one request for each point.
func TestPlanKeepsItsRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := limits{registers: rapid.IntRange(4, 125).Draw(t, "registers"), bits: rapid.IntRange(4, 2000).Draw(t, "bits")}
		n := rapid.IntRange(0, 40).Draw(t, "points")
		points := make([]point, n)
		for i := range points {
			points[i] = point{
				index: i, Point: codec.Point{
					Table:   codec.Table(rapid.IntRange(0, 3).Draw(t, "table")),
					Address: rapid.IntRange(0, 400).Draw(t, "address"), Count: rapid.IntRange(1, 4).Draw(t, "count"),
				},
			}
		}
		var holes []codec.Range
		for range rapid.IntRange(0, 4).Draw(t, "holes") {
			start := rapid.IntRange(0, 400).Draw(t, "start")
			holes = append(holes, codec.Range{Table: codec.Table(rapid.IntRange(0, 3).Draw(t, "table")), Start: start, End: start + rapid.IntRange(1, 10).Draw(t, "length")})
		}
		c := cost{request: time.Duration(rapid.IntRange(1, 1000).Draw(t, "request")), register: time.Duration(rapid.IntRange(0, 50).Draw(t, "register"))}
		seen := map[int]bool{}
		total, single := time.Duration(0), time.Duration(0)
		for _, b := range plan(points, l, c, holes) {
			total += c.of(b.table, b.count)
			if b.count > l.of(b.table) {
				t.Fatalf("%d items in one request", b.count)
			}
			if len(b.points) > 1 && inHole(b.table, b.start, b.start+b.count, holes) {
				t.Fatal("in a hole")
			}
			for _, p := range b.points {
				if p.Table != b.table || p.Address < b.start || p.End() > b.start+b.count {
					t.Fatal("a point is split")
				}
				if seen[p.index] {
					t.Fatal("a point is read twice")
				}
				seen[p.index] = true
				single += c.of(p.Table, p.Count)
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
			points := []point{{Point: codec.Point{Table: codec.Holdings, Count: 1}}, {index: 1, Point: codec.Point{Table: codec.Holdings, Address: 1 + g, Count: 1}}}
			if len(plan(points, limits{registers: 125, bits: 2000}, lineCost(e, turnaround), nil)) == 2 {
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

func TestDescribe(t *testing.T) {
	def := devices.Definition{Device: devices.Ref{Namespace: "ns", Name: "a"}, Config: devices.Settings{"ip": "10.0.0.1", "forbidden": "input:30-31", "retires": 3}, Points: []devices.Point{
		{Name: "a", Type: "INT", Cycle: time.Second, Visitor: devices.Settings{"register": "HoldingRegister", "offset": 0}},
		{Name: "b", Type: "INT", Cycle: time.Second, Visitor: devices.Settings{"register": "HoldingRegister", "offset": 9}},
		{Name: "c", Type: "INT", Cycle: 100 * time.Millisecond, Visitor: devices.Settings{"register": "InputRegister", "offset": 9}},
		{Name: "d", Type: "INT", Cycle: time.Second, Visitor: devices.Settings{"register": "Nowhere"}},
	}}
	second := def // another device of the same unit costs nothing more
	second.Device.Name = "b"
	plans, found := Describe(def, second)
	if len(plans) != 1 || len(found) != 4 || !found[1].Warning || found[1].Message != "retires is not a setting of the driver" {
		t.Fatalf("%+v %+v", plans, found)
	}
	p := plans[0]
	if len(p.Requests) != 2 || p.Requests[1].Count != 10 || len(p.Requests[1].Points) != 4 || p.Requests[1].Function != 3 || p.Requests[0].Function != 4 ||
		p.Endpoint != "tcp://10.0.0.1:502" || p.Cycle <= 0 || p.Utilisation <= 0 || p.Utilisation > 0.1 || len(p.Classes) != 2 || p.Holes[0] != "input:30-31" {
		t.Fatalf("%+v", p)
	}
}

func TestQueueGivesPollsTheirShare(t *testing.T) {
	q := newQueue()
	now := time.Now()
	for range 20 {
		q.put(&job{priority: prioWrite, due: now})
	}
	q.put(&job{priority: prioProbe, due: now.Add(-time.Hour)})
	q.put(&job{priority: prioCommand, due: now.Add(time.Second)})
	q.put(&job{priority: prioPoll, due: now})
	q.put(&job{priority: prioOverdue, due: now.Add(time.Second)})
	q.put(&job{priority: prioPoll, due: now.Add(-time.Second)})
	var order []priority
	for range 25 {
		order = append(order, q.next(nil).priority)
	}
	for i, want := range map[int]priority{0: prioCommand, 1: prioWrite, 3: prioWrite, 4: prioOverdue, 5: prioWrite, 9: prioPoll, 14: prioPoll, 15: prioWrite, 24: prioProbe} {
		if order[i] != want {
			t.Fatalf("place %d: %v", i, order)
		}
	}
	if q.next(nil) != nil {
		t.Fatal("more than was put")
	}
}
