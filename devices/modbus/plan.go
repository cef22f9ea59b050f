package modbus

import (
	"fmt"
	"sort"
	"strings"
	"time"
)

// block is one request that reads one or more points.
type block struct {
	table        table
	start, count int
	points       []point   // by address
	parts        [][]point // the same by owner, after share
}

// limits is what one request may ask for.
type limits struct {
	registers, bits int
	// alone gives every point a request of its own.
	alone bool
	// coilsFromZero makes every request for coils begin with the first.
	coilsFromZero bool
}

func (l limits) of(t table) int {
	if t.bits() {
		return l.bits
	}
	return l.registers
}

// cost is what a request takes: t(n) = request + n·item, for n registers; a bit
// takes a sixteenth of a register. On a serial line it follows from the baud rate,
// elsewhere an additional register is almost free.
type cost struct{ request, register time.Duration }

func (c cost) of(t table, n int) time.Duration {
	if t.bits() {
		return c.request + time.Duration((n+15)/16)*c.register
	}
	return c.request + time.Duration(n)*c.register
}

// lineCost is the cost on an endpoint, with a slave that takes turnaround to answer
// (MODBUS over Serial Line V1.02: request 8, answer 5+2n characters, two silences).
func lineCost(e endpoint, turnaround time.Duration) cost {
	if e.mode == modeRTU {
		c := e.serial.character()
		return cost{request: 13*c + 2*e.serial.silence() + turnaround, register: 2 * c}
	}
	return cost{request: 500*time.Microsecond + turnaround, register: 500 * time.Nanosecond}
}

// turnaround is what a slave is assumed to take before it answers.
const turnaround = 2 * time.Millisecond

// hole is a range of a table, end exclusive, that a unit refuses to read.
type hole struct {
	table      table
	start, end int
}

// String is the form that the setting forbidden has.
func (h hole) String() string {
	name := strings.ToLower(strings.TrimSuffix(h.table.String(), "Register"))
	if h.end-h.start == 1 {
		return fmt.Sprintf("%s:%d", name, h.start)
	}
	return fmt.Sprintf("%s:%d-%d", name, h.start, h.end-1)
}

// plan groups the points of one period into requests of the least total cost that
// never split a point, keep the limits and touch no hole. Points that lie in a hole
// themselves get a request of their own. The answer is ordered by table and address.
// It is pure.
func plan(points []point, l limits, c cost, holes []hole) []block {
	var blocks []block
	for t := coils; t <= inputs; t++ {
		var ps []point
		for _, p := range points {
			if p.table == t {
				ps = append(ps, p)
			}
		}
		sort.SliceStable(ps, func(a, b int) bool {
			if ps[a].address != ps[b].address {
				return ps[a].address < ps[b].address
			}
			return ps[a].count < ps[b].count
		})
		blocks = append(blocks, planTable(t, ps, l, c, holes)...)
	}
	return blocks
}

// planTable finds the cheapest way to cut a sorted row of points: best[i] is the
// cheapest way for the first i.
func planTable(t table, ps []point, l limits, c cost, holes []hole) []block {
	limit, fromZero := l.of(t), t == coils && l.coilsFromZero
	best := make([]time.Duration, len(ps)+1)
	cut := make([]int, len(ps)+1)
	for i := 1; i <= len(ps); i++ {
		best[i] = -1
		end := 0
		for j := i - 1; j >= 0; j-- {
			end = max(end, ps[j].end())
			start := ps[j].address
			if fromZero {
				start = 0
			}
			if j < i-1 && l.alone && !samePlace(&ps[j], &ps[j+1]) {
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

func inHole(t table, start, end int, holes []hole) bool {
	for _, h := range holes {
		if h.table == t && h.start < end && start < h.end {
			return true
		}
	}
	return false
}

// samePlace tells points that several devices have in common.
func samePlace(a, b *point) bool { return a.address == b.address && a.count == b.count }

// newBlock spans points sorted by address.
func newBlock(t table, ps []point) block {
	end := 0
	for _, p := range ps {
		end = max(end, p.end())
	}
	return block{table: t, start: ps[0].address, count: end - ps[0].address, points: ps}
}

// split halves a block between points. It is not for a block of one point.
func (b block) split() (block, block) {
	m := len(b.points) / 2
	return newBlock(b.table, b.points[:m]), newBlock(b.table, b.points[m:])
}
