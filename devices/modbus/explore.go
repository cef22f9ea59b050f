package modbus

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/devices/modbus/codec"
)

// explore bisects a block that the unit refused, so that its good points are read in the
// same cycle. It finds out what the unit refuses, and adapts the plan: single points, gaps
// between points, or requests of that size.
func (p *poller) explore(ctx context.Context, b block) {
	var leaves []*pollRequest
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
		if i+1 < len(leaves) && leaves[i+1].err == nil && p.probeGap(ctx, b.table, f.block.start+f.block.count, leaves[i+1].block.start) {
			learned = true
		}
	}
	if !learned && longest > 0 {
		g.lowerLimit(b.table, longest)
	}
	g.replan(time.Now())
	p.log.Info("unit refused a range, requests were planned again", zap.Stringer("table", b.table), zap.Int("start", b.start), zap.Int("count", b.count),
		zap.Int("holes", len(g.holes)), zap.Int("refused", len(g.refused)), zap.Int("longest", g.limit(b.table)))
}

// bisect divides a block until every part is read or cannot be divided further, and adds
// those parts to leaves. It returns false if ctx ends first.
func (p *poller) bisect(ctx context.Context, b block, leaves *[]*pollRequest) bool {
	low, high := b.split()
	for _, part := range []block{low, high} {
		part.splitByOwner()
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
		p.finish(r)
	}
	return true
}

// probeGap reads the gap between two good parts. It reports whether the unit refuses it.
func (p *poller) probeGap(ctx context.Context, t codec.Table, start, end int) bool {
	if end <= start || end-start > p.group.limit(t) {
		return false
	}
	r := p.read(ctx, block{table: t, start: start, count: end - start})
	if r == nil || !illegalRange(r.err) {
		return false
	}
	p.group.addHole(codec.Range{Table: t, Start: start, End: end})
	return true
}
