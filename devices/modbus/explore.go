package modbus

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/devices"
)

// leaf is a part of a refused block with what reading it gave.
type leaf struct {
	block block
	err   error
}

// explore reads a refused block in ever smaller parts, so that its good points are
// read in the same cycle, and learns from it what not to ask for: points that are
// refused alone, gaps between points, or requests of that size.
func (s *session) explore(ctx context.Context, l *link, g *group, b block, deliver func(devices.Batch)) {
	var leaves []leaf
	s.bisect(ctx, l, g, b, deliver, &leaves)
	learned, longest := false, 0
	for i, f := range leaves {
		if ctx.Err() != nil {
			return
		}
		switch {
		case f.err == nil:
			longest = max(longest, f.block.count)
		case illegalRange(f.err):
			g.refuse(f.block.points[0])
			learned = true
			continue
		default:
			continue
		}
		if i+1 < len(leaves) && leaves[i+1].err == nil && s.probe(ctx, l, g, b.table, f.block.start+f.block.count, leaves[i+1].block.start) {
			learned = true
		}
	}
	if !learned && longest > 0 {
		g.limits.shrink(b.table, longest)
	}
	g.expires, g.stale = time.Now().Add(holeMemory), true
	s.log.Info("unit refuses a range, plan adapted", zap.Stringer("table", b.table), zap.Int("start", b.start), zap.Int("count", b.count),
		zap.Int("holes", len(g.holes)), zap.Int("refused", len(g.refused)), zap.Int("maxRegisters", g.limits.registers), zap.Int("maxBits", g.limits.bits))
}

func (s *session) bisect(ctx context.Context, l *link, g *group, b block, deliver func(devices.Batch), leaves *[]leaf) {
	low, high := b.split()
	for _, part := range []block{low, high} {
		if ctx.Err() != nil {
			return
		}
		data, at, err := s.read(ctx, l, g, part.table, part.start, part.count)
		if err != nil && illegalRange(err) && len(part.points) > 1 {
			s.bisect(ctx, l, g, part, deliver, leaves)
			continue
		}
		*leaves = append(*leaves, leaf{part, err})
		if ctx.Err() == nil {
			deliver(s.batch(part, data, at, err))
		}
	}
}

// probe reads a gap between two good parts and tells whether it is a hole.
func (s *session) probe(ctx context.Context, l *link, g *group, t table, start, end int) bool {
	if end <= start || end-start > g.limits.of(t) {
		return false
	}
	_, _, err := s.read(ctx, l, g, t, start, end-start)
	if err == nil || !illegalRange(err) {
		return false
	}
	g.holes = append(g.holes, hole{t, start, end})
	return true
}

// refuse leaves a point out of the plan for as long as holes are remembered.
func (g *group) refuse(p point) {
	if g.refused == nil {
		g.refused = map[int]bool{}
	}
	g.refused[p.index] = true
	g.holes = append(g.holes, hole{p.table, p.address, p.end()})
}

// usable are the points that are not refused.
func (g *group) usable() []point {
	if len(g.refused) == 0 {
		return g.points
	}
	var ps []point
	for _, p := range g.points {
		if !g.refused[p.index] {
			ps = append(ps, p)
		}
	}
	return ps
}

// forget makes the next cycle ask for everything again.
func (g *group) forget(l limits) {
	g.holes, g.refused, g.limits, g.expires, g.stale = nil, nil, l, time.Time{}, true
}

func (l *limits) shrink(t table, n int) {
	if t.bits() {
		l.bits = min(l.bits, n)
	} else {
		l.registers = min(l.registers, n)
	}
}
