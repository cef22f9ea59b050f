package modbus

import (
	"cmp"
	"slices"
	"time"

	"github.com/petiole-io/petiole/devices/modbus/codec"
)

// holeMemory is the time after which a refused range is tried again.
const holeMemory = 30 * time.Minute

// group is a set of points that are read together, and the plan to read them.
type group struct {
	points []point
	limits limits
	cost   cost
	// forbidden are the ranges that the settings forbid.
	forbidden []codec.Range

	blocks []block
	holes  []codec.Range
	// refused holds the ranges of points that the unit refused to read.
	refused map[codec.Range]bool
	// expires is when holes, refused ranges and lowered limits are dropped.
	expires   time.Time
	lowered   *limits
	needsPlan bool // blocks must be planned again
}

// newGroup returns a group without points for a unit with these settings.
func newGroup(s *settings) group {
	forbidden, _ := codec.ParseRanges(s.forbidden) // validated when the settings were read
	return group{limits: s.limits(), cost: lineCost(s.endpoint, turnaround), forbidden: forbidden, holes: slices.Clone(forbidden)}
}

// refresh plans the blocks again if something has changed.
func (g *group) refresh(now time.Time) {
	if !g.expires.IsZero() && now.After(g.expires) {
		g.holes, g.refused, g.lowered, g.expires, g.needsPlan = slices.Clone(g.forbidden), nil, nil, time.Time{}, true
	}
	if !g.needsPlan {
		return
	}
	g.needsPlan = false
	l := g.limits
	if g.lowered != nil {
		l = *g.lowered
	}
	g.blocks = plan(g.usable(), l, g.cost, g.holes)
	for i := range g.blocks {
		g.blocks[i].splitByOwner()
	}
}

// replan makes the next refresh plan again, after the unit refused something.
func (g *group) replan(now time.Time) { g.expires, g.needsPlan = now.Add(holeMemory), true }

// excludePoint leaves a point that the unit refused out of the plan until expires.
func (g *group) excludePoint(p *point) {
	if g.refused == nil {
		g.refused = map[codec.Range]bool{}
	}
	g.refused[p.Range()] = true
	g.addHole(p.Range())
	g.replan(time.Now())
}

func (g *group) addHole(h codec.Range) {
	if !slices.Contains(g.holes, h) {
		g.holes = append(g.holes, h)
	}
}

// usable returns the points that were not refused.
func (g *group) usable() []point {
	if len(g.refused) == 0 {
		return g.points
	}
	var ps []point
	for _, p := range g.points {
		if !g.refused[p.Range()] {
			ps = append(ps, p)
		}
	}
	return ps
}

// lowerLimit bounds requests to a table by a size that the unit has answered.
func (g *group) lowerLimit(t codec.Table, n int) {
	l := g.limits
	if g.lowered != nil {
		l = *g.lowered
	}
	if t.Bits() {
		l.bits = min(l.bits, n)
	} else {
		l.registers = min(l.registers, n)
	}
	g.lowered = &l
}

// limit returns how many registers or bits one request to a table may read.
func (g *group) limit(t codec.Table) int {
	if g.lowered != nil {
		return g.lowered.of(t)
	}
	return g.limits.of(t)
}

// splitByOwner fills byOwner.
func (b *block) splitByOwner() {
	byOwner := slices.Clone(b.points)
	order := map[*subscriber]int{}
	for i := range byOwner {
		if _, ok := order[byOwner[i].owner]; !ok {
			order[byOwner[i].owner] = len(order)
		}
	}
	slices.SortStableFunc(byOwner, func(a, z point) int { return cmp.Compare(order[a.owner], order[z.owner]) })
	b.byOwner = nil
	for begin, i := 0, 1; i <= len(byOwner); i++ {
		if i == len(byOwner) || byOwner[i].owner != byOwner[begin].owner {
			b.byOwner = append(b.byOwner, byOwner[begin:i])
			begin = i
		}
	}
}
