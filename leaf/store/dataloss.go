package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/internal/logonce"
	"github.com/petiole-io/petiole/leaf/journal"
	"github.com/petiole-io/petiole/streams"
)

// deviceLossRetention is how long a loss of device state is remembered. It is longer than any
// command may wait for its deadline.
const deviceLossRetention = time.Hour

// losses finds that a stream holds less than before, of those that hold what exists nowhere else:
// the streams that are forwarded, and the device state.
type losses struct {
	js jetstream.JetStream
	// deviceState is the stream of the device state.
	deviceState string
	checkpoints *journal.Checkpoints
	drops       *journal.DropLog
	timelines   map[string]*journal.TimelineStore
	degraded    *degraded
	failures    *logonce.Reporter
	log         *zap.Logger
}

// checkpointUpstream checks and checkpoints the streams that are forwarded.
func (ls *losses) checkpointUpstream(ctx context.Context) {
	for stream, c := range ls.timelines {
		if err := ls.checkUpstream(ctx, stream, c); ctx.Err() == nil {
			ls.failures.Report("checkpoint "+stream, err)
		}
	}
}

// checkUpstream checkpoints a stream that is forwarded. If the stream holds less than at the
// last checkpoint, it starts a new incarnation, so that new messages get other ids, counts the
// loss once and reports it as soon as a report can be stored. The checkpoint holds the loss
// until then.
func (ls *losses) checkUpstream(ctx context.Context, stream string, c *journal.TimelineStore) error {
	s, err := ls.js.Stream(ctx, stream)
	if err != nil {
		return fmt.Errorf("look up stream %s: %w", stream, err)
	}
	was, known := ls.checkpoints.Get(stream)
	end := s.CachedInfo().State.LastSeq
	if known && was.Created == s.CachedInfo().Created.UnixNano() && was.Timeline == s.CachedInfo().Config.Metadata[journal.TimelineKey] && end < was.Last {
		c.StartNew(end)
	}
	l, err := c.Timeline(ctx)
	if err != nil {
		return err
	}
	now := journal.Checkpoint{Created: l.Created(), Last: end, Timeline: l.String(), Lost: was.Lost}
	if lost, ok := was.LostSince(l, ls.drops.Forwarded(stream)); known && ok {
		ls.log.Warn("records were lost with the store", zap.String("stream", stream), zap.Uint64("from", lost.From), zap.Uint64("to", lost.To))
		ls.failures.Report("count lost records", ls.drops.CountLost(stream, was.End(), lost.Count()))
		now.Lost = append(slices.Clone(was.Lost), lost)
	}
	if err := ls.checkpoints.Put(stream, now); err != nil {
		return err
	}
	for len(now.Lost) > 0 {
		if err := ls.reportLoss(ctx, stream, now.Lost[0]); err != nil {
			return err
		}
		if now.Lost = now.Lost[1:]; len(now.Lost) == 0 {
			now.Lost = nil
		}
		if err := ls.checkpoints.Put(stream, now); err != nil {
			return err
		}
	}
	return nil
}

// reportLoss stores the record of a loss. Its message id keeps a second attempt from storing
// another.
func (ls *losses) reportLoss(ctx context.Context, stream string, lost journal.LostRange) error {
	data, err := json.Marshal(streams.Gap{
		Stream: stream, Created: lost.Created, From: lost.From, To: lost.To, Reason: streams.GapLost, Time: time.Now(),
	})
	if err == nil {
		id := fmt.Sprintf("lost.%s.%d.%d.%d", stream, lost.Created, lost.From, lost.To)
		_, err = ls.js.Publish(ctx, streams.LocalTelemetrySubject(streams.GapKind, stream), data, jetstream.WithMsgID(id))
	}
	if err != nil {
		return fmt.Errorf("report what was lost of %s: %w", stream, err)
	}
	return nil
}

// checkDeviceState checkpoints the device state, and notes a loss if it is damaged or holds less
// than before.
func (ls *losses) checkDeviceState(ctx context.Context, damaged bool) error {
	was, _ := ls.checkpoints.Get(ls.deviceState)
	now := journal.Checkpoint{LostAt: was.LostAt}
	s, err := ls.js.Stream(ctx, ls.deviceState)
	switch {
	case err == nil:
		info := s.CachedInfo()
		now.Created, now.Last = info.Created.UnixNano(), info.State.LastSeq
		damaged = damaged || info.State.Lost != nil
	case !errors.Is(err, jetstream.ErrStreamNotFound):
		return fmt.Errorf("look up stream %s: %w", ls.deviceState, err)
	}
	switch {
	case damaged || now.Last < was.Last:
		ls.log.Error("some device state was lost; commands are refused until none of them can be repeated", zap.Uint64("had", was.Last), zap.Uint64("has", now.Last))
		ls.degraded.set(streams.DegradedStore, true)
		now.LostAt = time.Now().UnixNano()
	case time.Since(time.Unix(0, was.LostAt)) > deviceLossRetention:
		now.LostAt = 0
	case was.LostAt > time.Now().UnixNano(): // the clock was set back since
		now.LostAt = time.Now().UnixNano()
	}
	return ls.checkpoints.Put(ls.deviceState, now)
}

// deviceStateLostAt returns when device state was found to be lost, or zero if nothing is
// missing.
func (ls *losses) deviceStateLostAt() time.Time {
	if was, _ := ls.checkpoints.Get(ls.deviceState); was.LostAt != 0 {
		return time.Unix(0, was.LostAt)
	}
	return time.Time{}
}
