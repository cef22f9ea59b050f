package modbus

import (
	"context"
	"time"

	"go.uber.org/zap"
)

// explore reads a refused block in ever smaller parts, so that its good points are
// read in the same cycle, and learns from it what not to ask for: points that are
// refused alone, gaps between points, or requests of that size.
func (p *poller) explore(ctx context.Context, b block) {
	var leaves []*polled
	if !p.bisect(ctx, b, &leaves) {
		return
	}
	g := &p.group
	learned, longest := false, 0
	for i, f := range leaves {
		switch {
		case f.err == nil:
			longest = max(longest, f.block.count)
		case illegalRange(f.err):
			learned = true
			continue
		default:
			continue
		}
		if i+1 < len(leaves) && leaves[i+1].err == nil && p.probe(ctx, b.table, f.block.start+f.block.count, leaves[i+1].block.start) {
			learned = true
		}
	}
	if !learned && longest > 0 {
		g.lower(b.table, longest)
	}
	g.learn(time.Now())
	p.log.Info("unit refuses a range, plan adapted", zap.Stringer("table", b.table), zap.Int("start", b.start), zap.Int("count", b.count),
		zap.Int("holes", len(g.holes)), zap.Int("refused", len(g.refused)), zap.Int("longest", g.limit(b.table)))
}

// bisect settles every part of a block that is answered or cannot be divided; false
// means that ctx ended.
func (p *poller) bisect(ctx context.Context, b block, leaves *[]*polled) bool {
	low, high := b.split()
	for _, part := range []block{low, high} {
		part.share()
		r := p.read(ctx, part)
		if r == nil {
			return false
		}
		if illegalRange(r.err) && len(part.points) > 1 {
			if !p.bisect(ctx, part, leaves) {
				return false
			}
			continue
		}
		*leaves = append(*leaves, r)
		p.settle(r)
	}
	return true
}

// probe reads a gap between two good parts and tells whether it is a hole.
func (p *poller) probe(ctx context.Context, t table, start, end int) bool {
	if end <= start || end-start > p.group.limit(t) {
		return false
	}
	r := p.read(ctx, block{table: t, start: start, count: end - start})
	if r == nil || !illegalRange(r.err) {
		return false
	}
	p.group.addHole(hole{t, start, end})
	return true
}
