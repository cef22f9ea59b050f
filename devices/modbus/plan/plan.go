// Package plan decides which registers a request reads: it groups the points that are read
// with the same period into the requests that take a link the least time, and learns from a
// unit which ranges it refuses. It does no I/O, starts nothing, and is not safe for concurrent
// use. The pollers of the driver call it.
package plan

import (
	"slices"
	"sort"
	"time"

	"github.com/petiole-io/petiole/devices/modbus/codec"
	"github.com/petiole-io/petiole/devices/modbus/wire"
)

// Block is one request that reads one or more points.
type Block struct {
	Table        codec.Table
	Start, Count int
	Points       []Point // in order of address
}

// Point is a range to read as a whole. Its index is that of the range in the input.
type Point struct {
	codec.Range
	Index int
}

// Limits bounds what one request may read.
type Limits struct {
	Registers, Bits int
	// Alone reads every point with a request of its own.
	Alone bool
	// CoilsFromZero makes every request for coils start with coil 0.
	CoilsFromZero bool
}

// Of returns the limit of requests to a table.
func (l Limits) Of(t codec.Table) int {
	if t.Bits() {
		return l.Bits
	}
	return l.Registers
}

// Cost estimates how long a request takes: t(n) = request + n·register, for n registers; a
// bit counts as a sixteenth of a register. On a serial line it follows from the baud rate;
// elsewhere an additional register is almost free.
type Cost struct{ request, register time.Duration }

// Of returns the estimate for n registers or bits of a table.
func (c Cost) Of(t codec.Table, n int) time.Duration {
	if t.Bits() {
		n = (n + 15) / 16
	}
	return c.request + time.Duration(n)*c.register
}

// LineCost returns the cost on an endpoint, for a unit that takes 2 ms to reply.
func LineCost(e wire.Endpoint) Cost { return lineCost(e, turnaround) }

// lineCost is LineCost for another turnaround (MODBUS over Serial Line V1.02: request 8,
// reply 5+2n characters, two silences).
func lineCost(e wire.Endpoint, turnaround time.Duration) Cost {
	if e.Mode == wire.RTU {
		c := e.Serial.Character()
		return Cost{request: 13*c + 2*e.Serial.Silence() + turnaround, register: 2 * c}
	}
	return Cost{request: 500*time.Microsecond + turnaround, register: 500 * time.Nanosecond}
}

// turnaround is the time that a unit is assumed to take before it replies.
const turnaround = 2 * time.Millisecond

// blocks groups the points of one period into the requests with the least total cost that
// do not split a point, exceed the limits or touch a hole. A point that lies in a hole
// itself gets a request of its own. The result is in order of table and address. It is a
// pure function.
func blocks(points []Point, l Limits, c Cost, holes []codec.Range) []Block {
	var all []Block
	for t := codec.Coils; t <= codec.Inputs; t++ {
		var ps []Point
		for _, p := range points {
			if p.Table == t {
				ps = append(ps, p)
			}
		}
		sort.SliceStable(ps, func(a, b int) bool {
			if ps[a].Start != ps[b].Start {
				return ps[a].Start < ps[b].Start
			}
			return ps[a].End < ps[b].End
		})
		all = append(all, tableBlocks(t, ps, l, c, holes)...)
	}
	return all
}

// tableBlocks finds the cheapest way to divide sorted points into requests, with dynamic
// programming: best[i] is the least cost of the first i points, cut[i] where their last
// request starts.
func tableBlocks(t codec.Table, ps []Point, l Limits, c Cost, holes []codec.Range) []Block {
	limit, fromZero := l.Of(t), t == codec.Coils && l.CoilsFromZero
	best := make([]time.Duration, len(ps)+1)
	cut := make([]int, len(ps)+1)
	for i := 1; i <= len(ps); i++ {
		best[i] = -1
		end := 0
		for j := i - 1; j >= 0; j-- {
			end = max(end, ps[j].End)
			start := ps[j].Start
			if fromZero {
				start = 0
			}
			if j < i-1 && l.Alone && ps[j].Range != ps[j+1].Range { // equal ones are of several devices
				break
			}
			if end-start > limit && j < i-1 {
				break
			}
			if j < i-1 && inHole(t, start, end, holes) {
				break
			}
			if total := best[j] + c.Of(t, end-start); best[i] < 0 || total <= best[i] {
				best[i], cut[i] = total, j
			}
		}
	}
	var all []Block
	for i := len(ps); i > 0; i = cut[i] {
		b := newBlock(t, ps[cut[i]:i])
		if fromZero {
			b.Start, b.Count = 0, b.Start+b.Count
		}
		all = append(all, b)
	}
	slices.Reverse(all)
	return all
}

func inHole(t codec.Table, start, end int, holes []codec.Range) bool {
	for _, h := range holes {
		if h.Table == t && h.Start < end && start < h.End {
			return true
		}
	}
	return false
}

// newBlock returns the block that spans points sorted by address.
func newBlock(t codec.Table, ps []Point) Block {
	end := 0
	for _, p := range ps {
		end = max(end, p.End)
	}
	return Block{Table: t, Start: ps[0].Start, Count: end - ps[0].Start, Points: ps}
}

// End returns the address after the last one.
func (b Block) End() int { return b.Start + b.Count }

// Split divides a block of at least two points between two of them.
func (b Block) Split() (Block, Block) {
	m := len(b.Points) / 2
	return newBlock(b.Table, b.Points[:m]), newBlock(b.Table, b.Points[m:])
}
