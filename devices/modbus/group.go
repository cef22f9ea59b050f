package modbus

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// holeMemory is how long a refused range is not asked for again.
const holeMemory = 30 * time.Minute

// group is points that are read together, and the plan to read them.
type group struct {
	points []point
	limits limits
	cost   cost
	// forbidden are the holes that the settings name.
	forbidden []hole

	blocks []block
	holes  []hole
	// refused are the places of points that the unit refuses to read.
	refused map[hole]bool
	// expires is when holes, refused places and lowered limits are forgotten.
	expires time.Time
	lowered *limits
	stale   bool // the blocks are to be planned again
}

// newGroup makes a group without points for a unit with these settings.
func newGroup(s *settings) group {
	forbidden, _ := parseHoles(s.forbidden) // was checked when the settings were read
	return group{limits: s.limits(), cost: lineCost(s.endpoint, turnaround), forbidden: forbidden, holes: slices.Clone(forbidden)}
}

// parseHoles reads ranges such as "holding:12-16, input:30".
func parseHoles(s string) ([]hole, error) {
	var holes []hole
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		name, span, ok := strings.Cut(part, ":")
		if !ok {
			name, span = "holding", part
		}
		t, ok := parseTable(name)
		if !ok {
			return nil, fmt.Errorf("%q names no table", part)
		}
		low, high, ok := strings.Cut(span, "-")
		if !ok {
			high = low
		}
		first, err1 := strconv.ParseUint(strings.TrimSpace(low), 10, 16)
		last, err2 := strconv.ParseUint(strings.TrimSpace(high), 10, 16)
		if err1 != nil || err2 != nil || first > last {
			return nil, fmt.Errorf("%q is no range of addresses", part)
		}
		holes = append(holes, hole{t, int(first), int(last) + 1})
	}
	return holes, nil
}

// refresh plans again if something has changed.
func (g *group) refresh(now time.Time) {
	if !g.expires.IsZero() && now.After(g.expires) {
		g.holes, g.refused, g.lowered, g.expires, g.stale = slices.Clone(g.forbidden), nil, nil, time.Time{}, true
	}
	if !g.stale {
		return
	}
	g.stale = false
	l := g.limits
	if g.lowered != nil {
		l = *g.lowered
	}
	g.blocks = plan(g.usable(), l, g.cost, g.holes)
	for i := range g.blocks {
		g.blocks[i].share()
	}
}

// learn makes the plan follow what the unit was found to refuse.
func (g *group) learn(now time.Time) { g.expires, g.stale = now.Add(holeMemory), true }

// refuse leaves a point's place out of the plan for as long as holes are remembered.
func (g *group) refuse(p *point) {
	if g.refused == nil {
		g.refused = map[hole]bool{}
	}
	g.refused[p.span()] = true
	g.addHole(p.span())
	g.learn(time.Now())
}

func (g *group) addHole(h hole) {
	if !slices.Contains(g.holes, h) {
		g.holes = append(g.holes, h)
	}
}

// usable are the points that are not refused.
func (g *group) usable() []point {
	if len(g.refused) == 0 {
		return g.points
	}
	var ps []point
	for _, p := range g.points {
		if !g.refused[p.span()] {
			ps = append(ps, p)
		}
	}
	return ps
}

// lower bounds requests to a table by a size that the unit is known to answer.
func (g *group) lower(t table, n int) {
	l := g.limits
	if g.lowered != nil {
		l = *g.lowered
	}
	if t.bits() {
		l.bits = min(l.bits, n)
	} else {
		l.registers = min(l.registers, n)
	}
	g.lowered = &l
}

// limit is how much one request to a table may ask for, as far as is known.
func (g *group) limit(t table) int {
	if g.lowered != nil {
		return g.lowered.of(t)
	}
	return g.limits.of(t)
}

// share sorts a block's points by their owners.
func (b *block) share() {
	byOwner := slices.Clone(b.points)
	order := map[*subscriber]int{}
	for i := range byOwner {
		if _, ok := order[byOwner[i].owner]; !ok {
			order[byOwner[i].owner] = len(order)
		}
	}
	slices.SortStableFunc(byOwner, func(a, z point) int { return cmp.Compare(order[a.owner], order[z.owner]) })
	b.parts = nil
	for begin, i := 0, 1; i <= len(byOwner); i++ {
		if i == len(byOwner) || byOwner[i].owner != byOwner[begin].owner {
			b.parts = append(b.parts, byOwner[begin:i])
			begin = i
		}
	}
}
