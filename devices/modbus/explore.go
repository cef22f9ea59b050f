package modbus

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/devices/modbus/codec"
	"github.com/petiole-io/petiole/devices/modbus/link"
	"github.com/petiole-io/petiole/devices/modbus/plan"
)

// explore bisects a block that the unit refused, so that its good points are read in the
// same cycle. It finds out what the unit refuses, and adapts the plan: single points, gaps
// between points, or requests of that size.
func (p *poller) explore(ctx context.Context, b block) {
	var leaves []*pollRequest
	if !p.bisect(ctx, b, &leaves) {
		return
	}
	g := p.group
	learned, longest := false, 0
	for i, f := range leaves {
		switch {
		case f.err == nil:
			longest = max(longest, f.block.Count)
		case link.IllegalRange(f.err):
			learned = true
			continue
		default:
			continue
		}
		if i+1 < len(leaves) && leaves[i+1].err == nil && p.probeGap(ctx, b.Table, f.block.End(), leaves[i+1].block.Start) {
			learned = true
		}
	}
	if !learned && longest > 0 {
		g.LowerLimit(b.Table, longest)
	}
	g.Replan(time.Now())
	p.log.Info("unit refused a range, requests were planned again", zap.Stringer("table", b.Table), zap.Int("start", b.Start), zap.Int("count", b.Count),
		zap.Int("refused", len(g.Refused())), zap.Int("longest", g.Limit(b.Table)))
}

// bisect divides a block until every part is read or cannot be divided further, and adds
// those parts to leaves. It returns false if ctx ends first.
func (p *poller) bisect(ctx context.Context, b block, leaves *[]*pollRequest) bool {
	low, high := b.Split()
	for _, half := range []plan.Block{low, high} {
		part := p.block(half)
		r := p.read(ctx, part)
		if r == nil {
			return false
		}
		if link.IllegalRange(r.err) && len(part.Points) > 1 {
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
	if end <= start || end-start > p.group.Limit(t) {
		return false
	}
	r := p.read(ctx, block{Block: plan.Block{Table: t, Start: start, Count: end - start}})
	if r == nil || !link.IllegalRange(r.err) {
		return false
	}
	p.group.AddHole(codec.Range{Table: t, Start: start, End: end})
	return true
}
