package leaf

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/leaf/field"
	"github.com/petiole-io/petiole/streams"
)

// deviceLossRetention is how long a loss of device state is remembered. It is longer than any
// command may wait for its deadline.
const deviceLossRetention = time.Hour

// checkpointUpstream checks and checkpoints the streams that are forwarded.
func (k *storeSupervisor) checkpointUpstream(ctx context.Context) {
	for stream, c := range k.timelines {
		if err := k.checkUpstream(ctx, stream, c); ctx.Err() == nil {
			k.failures.Report("checkpoint "+stream, err)
		}
	}
}

// checkUpstream checkpoints a stream that is forwarded. If the stream holds less than at the
// last checkpoint, it starts a new incarnation, so that new messages get other ids, counts the
// loss once and reports it as soon as a report can be stored. The checkpoint holds the loss
// until then.
func (k *storeSupervisor) checkUpstream(ctx context.Context, stream string, c *timelineStore) error {
	s, err := k.js.Stream(ctx, stream)
	if err != nil {
		return fmt.Errorf("look up stream %s: %w", stream, err)
	}
	was, known := k.checkpoints.get(stream)
	end := s.CachedInfo().State.LastSeq
	if known && was.Created == s.CachedInfo().Created.UnixNano() && was.Timeline == s.CachedInfo().Config.Metadata[timelineKey] && end < was.Last {
		c.startNew(end)
	}
	l, err := c.timeline(ctx)
	if err != nil {
		return err
	}
	now := checkpoint{Created: l[0].id, Last: end, Timeline: l.String(), Lost: was.Lost}
	if lost, ok := was.lostSince(l, k.drops.forwarded(stream)); known && ok {
		k.log.Warn("records were lost with the store", zap.String("stream", stream), zap.Uint64("from", lost.From), zap.Uint64("to", lost.To))
		k.failures.Report("count lost records", k.drops.countLost(stream, lost.To-lost.From+1))
		now.Lost = append(slices.Clone(was.Lost), lost)
	}
	if err := k.checkpoints.put(stream, now); err != nil {
		return err
	}
	for len(now.Lost) > 0 {
		if err := k.reportLoss(ctx, stream, now.Lost[0]); err != nil {
			return err
		}
		if now.Lost = now.Lost[1:]; len(now.Lost) == 0 {
			now.Lost = nil
		}
		if err := k.checkpoints.put(stream, now); err != nil {
			return err
		}
	}
	return nil
}

// reportLoss stores the record of a loss. Its message id keeps a second attempt from storing
// another.
func (k *storeSupervisor) reportLoss(ctx context.Context, stream string, lost lostRange) error {
	data, err := json.Marshal(streams.Gap{
		Stream: stream, Created: lost.Created, From: lost.From, To: lost.To, Reason: streams.GapLost, Time: time.Now(),
	})
	if err == nil {
		id := fmt.Sprintf("lost.%s.%d.%d.%d", stream, lost.Created, lost.From, lost.To)
		_, err = k.js.Publish(ctx, streams.LocalTelemetrySubject(streams.GapKind, stream), data, jetstream.WithMsgID(id))
	}
	if err != nil {
		return fmt.Errorf("report what was lost of %s: %w", stream, err)
	}
	return nil
}

// lostSince returns the range that existed at the checkpoint, is missing in the timeline l, and
// had not been forwarded. Sequences of incarnations that started after the checkpoint are not
// what was there.
func (k checkpoint) lostSince(l timeline, noted position) (lostRange, bool) {
	then, err := parseTimeline(k.Timeline, time.Unix(0, k.Created))
	if err != nil {
		then = timeline{{id: k.Created}}
	}
	kept := uint64(math.MaxUint64)
	for i, c := range l[1:] {
		if (k.Timeline != "" || i == len(l)-2) && !slices.ContainsFunc(then, func(o incarnation) bool { return o.id == c.id }) {
			kept = min(kept, max(c.from, 1)-1)
		}
	}
	forwarded, _ := then.lastCommon(noted) // 0: of another life of the stream
	if kept >= k.Last || forwarded >= k.Last {
		return lostRange{}, false
	}
	return lostRange{Created: k.Created, From: max(kept, forwarded) + 1, To: k.Last}, true
}

// checkDeviceState checkpoints the device state, and notes a loss if it is damaged or holds less
// than before.
func (k *storeSupervisor) checkDeviceState(ctx context.Context, damaged bool) error {
	was, _ := k.checkpoints.get(field.StateStream)
	now := checkpoint{LostAt: was.LostAt}
	s, err := k.js.Stream(ctx, field.StateStream)
	switch {
	case err == nil:
		info := s.CachedInfo()
		now.Created, now.Last = info.Created.UnixNano(), info.State.LastSeq
		damaged = damaged || info.State.Lost != nil
	case !errors.Is(err, jetstream.ErrStreamNotFound):
		return fmt.Errorf("look up stream %s: %w", field.StateStream, err)
	}
	switch {
	case damaged || now.Last < was.Last:
		k.log.Error("some device state was lost; commands are refused until none of them can be repeated", zap.Uint64("had", was.Last), zap.Uint64("has", now.Last))
		k.degraded.set(streams.DegradedStore, true)
		now.LostAt = time.Now().UnixNano()
	case time.Since(time.Unix(0, was.LostAt)) > deviceLossRetention:
		now.LostAt = 0
	}
	return k.checkpoints.put(field.StateStream, now)
}

// deviceStateLostAt returns when device state was found to be lost, or zero if nothing is
// missing.
func (k *storeSupervisor) deviceStateLostAt() time.Time {
	if was, _ := k.checkpoints.get(field.StateStream); was.LostAt != 0 {
		return time.Unix(0, was.LostAt)
	}
	return time.Time{}
}
