package modbus

import (
	"sort"
	"time"

	"github.com/petiole-io/petiole/devices/modbus/codec"
	"github.com/petiole-io/petiole/devices/modbus/wire"
)

// block is one request that reads one or more points.
type block struct {
	table        codec.Table
	start, count int
	points       []point   // in order of address
	byOwner      [][]point // the same points by owner; see splitByOwner
}

// limits bounds what one request may read.
type limits struct {
	registers, bits int
	// alone reads every point with a request of its own.
	alone bool
	// coilsFromZero makes every request for coils start with coil 0.
	coilsFromZero bool
}

func (l limits) of(t codec.Table) int {
	if t.Bits() {
		return l.bits
	}
	return l.registers
}

// cost estimates how long a request takes: t(n) = request + n·register, for n registers; a
// bit counts as a sixteenth of a register. On a serial line it follows from the baud rate;
// elsewhere an additional register is almost free.
type cost struct{ request, register time.Duration }

func (c cost) of(t codec.Table, n int) time.Duration {
	if t.Bits() {
		return c.request + time.Duration((n+15)/16)*c.register
	}
	return c.request + time.Duration(n)*c.register
}

// lineCost returns the cost on an endpoint, for a unit that takes turnaround to reply
// (MODBUS over Serial Line V1.02: request 8, reply 5+2n characters, two silences).
func lineCost(e wire.Endpoint, turnaround time.Duration) cost {
	if e.Mode == wire.RTU {
		c := e.Serial.Character()
		return cost{request: 13*c + 2*e.Serial.Silence() + turnaround, register: 2 * c}
	}
	return cost{request: 500*time.Microsecond + turnaround, register: 500 * time.Nanosecond}
}

// turnaround is the time that a unit is assumed to take before it replies.
const turnaround = 2 * time.Millisecond

// plan groups the points of one period into the requests with the least total cost that
// do not split a point, exceed the limits or touch a hole. A point that lies in a hole
// itself gets a request of its own. The result is in order of table and address. It is a
// pure function.
func plan(points []point, l limits, c cost, holes []codec.Range) []block {
	var blocks []block
	for t := codec.Coils; t <= codec.Inputs; t++ {
		var ps []point
		for _, p := range points {
			if p.Table == t {
				ps = append(ps, p)
			}
		}
		sort.SliceStable(ps, func(a, b int) bool {
			if ps[a].Address != ps[b].Address {
				return ps[a].Address < ps[b].Address
			}
			return ps[a].Count < ps[b].Count
		})
		blocks = append(blocks, planTable(t, ps, l, c, holes)...)
	}
	return blocks
}

// planTable finds the cheapest way to divide sorted points into requests, with dynamic
// programming: best[i] is the least cost of the first i points, cut[i] where their last
// request starts.
func planTable(t codec.Table, ps []point, l limits, c cost, holes []codec.Range) []block {
	limit, fromZero := l.of(t), t == codec.Coils && l.coilsFromZero
	best := make([]time.Duration, len(ps)+1)
	cut := make([]int, len(ps)+1)
	for i := 1; i <= len(ps); i++ {
		best[i] = -1
		end := 0
		for j := i - 1; j >= 0; j-- {
			end = max(end, ps[j].End())
			start := ps[j].Address
			if fromZero {
				start = 0
			}
			if j < i-1 && l.alone && !sameAddress(&ps[j], &ps[j+1]) {
				break
			}
			if end-start > limit && j < i-1 {
				break
			}
			if j < i-1 && inHole(t, start, end, holes) {
				break
			}
			if total := best[j] + c.of(t, end-start); best[i] < 0 || total <= best[i] {
				best[i], cut[i] = total, j
			}
		}
	}
	var blocks []block
	for i := len(ps); i > 0; i = cut[i] {
		b := newBlock(t, ps[cut[i]:i])
		if fromZero {
			b.start, b.count = 0, b.start+b.count
		}
		blocks = append(blocks, b)
	}
	for i, j := 0, len(blocks)-1; i < j; i, j = i+1, j-1 {
		blocks[i], blocks[j] = blocks[j], blocks[i]
	}
	return blocks
}

func inHole(t codec.Table, start, end int, holes []codec.Range) bool {
	for _, h := range holes {
		if h.Table == t && h.Start < end && start < h.End {
			return true
		}
	}
	return false
}

// sameAddress reports whether two points, of different devices, are the same registers.
func sameAddress(a, b *point) bool { return a.Address == b.Address && a.Count == b.Count }

// newBlock returns the block that spans points sorted by address.
func newBlock(t codec.Table, ps []point) block {
	end := 0
	for _, p := range ps {
		end = max(end, p.End())
	}
	return block{table: t, start: ps[0].Address, count: end - ps[0].Address, points: ps}
}

// split divides a block of at least two points between two of them.
func (b block) split() (block, block) {
	m := len(b.points) / 2
	return newBlock(b.table, b.points[:m]), newBlock(b.table, b.points[m:])
}
