package plan

import (
	"slices"
	"time"

	"github.com/petiole-io/petiole/devices/modbus/codec"
)

// holeMemory is the time after which a refused range is tried again.
const holeMemory = 30 * time.Minute

// Group is a set of points that are read together, and the plan to read them.
type Group struct {
	points []Point
	limits Limits
	cost   Cost
	// forbidden are the ranges that the settings forbid.
	forbidden []codec.Range

	blocks []Block
	holes  []codec.Range
	// refused holds the ranges of points that the unit refused to read.
	refused map[codec.Range]bool
	// expires is when holes, refused ranges and lowered limits are dropped.
	expires   time.Time
	lowered   *Limits
	needsPlan bool // blocks must be planned again
}

// NewGroup returns a group without points. Forbidden ranges are touched by no request.
func NewGroup(l Limits, c Cost, forbidden []codec.Range) *Group {
	return &Group{limits: l, cost: c, forbidden: forbidden, holes: slices.Clone(forbidden)}
}

// SetPoints replaces the points, by the ranges that they occupy.
func (g *Group) SetPoints(ranges []codec.Range) {
	g.points = make([]Point, len(ranges))
	for i, r := range ranges {
		g.points[i] = Point{Range: r, Index: i}
	}
	g.needsPlan = true
}

// Refresh plans the blocks again if something has changed, and reports whether it did.
func (g *Group) Refresh(now time.Time) bool {
	if !g.expires.IsZero() && now.After(g.expires) {
		g.holes, g.refused, g.lowered, g.expires, g.needsPlan = slices.Clone(g.forbidden), nil, nil, time.Time{}, true
	}
	if !g.needsPlan {
		return false
	}
	g.needsPlan = false
	g.blocks = blocks(g.usable(), g.bounds(), g.cost, g.holes)
	return true
}

// Blocks returns the requests that Refresh planned.
func (g *Group) Blocks() []Block { return g.blocks }

// Forbidden returns the ranges that the settings forbid.
func (g *Group) Forbidden() []codec.Range { return g.forbidden }

// Refused returns the ranges that the unit was found to refuse.
func (g *Group) Refused() []codec.Range { return g.holes[len(g.forbidden):] }

// Estimate returns how long a request for n registers or bits of a table takes.
func (g *Group) Estimate(t codec.Table, n int) time.Duration { return g.cost.Of(t, n) }

// Replan makes the next Refresh plan again, after the unit refused something.
func (g *Group) Replan(now time.Time) { g.expires, g.needsPlan = now.Add(holeMemory), true }

// Exclude leaves points with a range that the unit refused out of the plan, for a time.
func (g *Group) Exclude(r codec.Range, now time.Time) {
	if g.refused == nil {
		g.refused = map[codec.Range]bool{}
	}
	g.refused[r] = true
	g.AddHole(r)
	g.Replan(now)
}

// Include takes points with a range that was excluded back into the plan.
func (g *Group) Include(r codec.Range) { delete(g.refused, r) }

// AddHole has requests for several points touch a range no longer.
func (g *Group) AddHole(h codec.Range) {
	if !slices.Contains(g.holes, h) {
		g.holes = append(g.holes, h)
	}
}

// usable returns the points that were not refused.
func (g *Group) usable() []Point {
	if len(g.refused) == 0 {
		return g.points
	}
	var ps []Point
	for _, p := range g.points {
		if !g.refused[p.Range] {
			ps = append(ps, p)
		}
	}
	return ps
}

// bounds returns the limits that apply at present.
func (g *Group) bounds() Limits {
	if g.lowered != nil {
		return *g.lowered
	}
	return g.limits
}

// LowerLimit bounds requests to a table by a size that the unit has answered.
func (g *Group) LowerLimit(t codec.Table, n int) {
	l := g.bounds()
	if t.Bits() {
		l.Bits = min(l.Bits, n)
	} else {
		l.Registers = min(l.Registers, n)
	}
	g.lowered = &l
}

// Limit returns how many registers or bits one request to a table may read.
func (g *Group) Limit(t codec.Table) int { return g.bounds().Of(t) }
