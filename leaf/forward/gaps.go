package forward

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/leaf/journal"
	"github.com/petiole-io/petiole/streams"
)

// missing divides the sequences from next up to before, which the stream no longer delivers, by
// reason: a limit dropped those before the first sequence of the stream, the others were lost.
func missing(next, before, first uint64) map[string]journal.Range {
	out := map[string]journal.Range{}
	if limit := min(before, max(first, 1)-1); next <= limit {
		out[streams.GapLimit] = journal.Range{From: next, To: limit}
		next = limit + 1
	}
	if next <= before {
		out[streams.GapLost] = journal.Range{From: next, To: before}
	}
	return out
}

// checkSkipped returns an error if the stream still has one of the messages from the next one up to
// before, which the consumer has passed over. nats-server delivers a message that it has sent to the
// request of an ended session again, behind later ones: it is neither superseded nor lost. The next session
// resets the consumer, and gets it in order.
func (r *session) checkSkipped(ctx context.Context, before uint64) error {
	m, err := r.stream.GetMsg(ctx, r.next, jetstream.WithGetMsgSubject(">"))
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return nil
	case err != nil:
		return fmt.Errorf("read what the consumer has passed over, from %d: %w", r.next, err)
	case m.Sequence < before:
		return fmt.Errorf("message %d was delivered before %d", before, m.Sequence)
	}
	return nil
}

// gapMessage returns the record for the hub that replaces the missing sequences. It has the id
// of the last of them, so that the hub's position advances and a record that is sent again is
// dropped.
func gapMessage(site, stream string, l journal.Timeline, s journal.Range, reason string) (*nats.Msg, error) {
	id := l.MessageID(site, stream, s.To)
	data, err := json.Marshal(streams.Gap{
		Stream: stream, Created: id.Incarnation, From: s.From, To: s.To, Reason: reason, Time: time.Now(),
	})
	if err != nil {
		return nil, fmt.Errorf("encode a gap of %s: %w", stream, err)
	}
	msg := nats.NewMsg(streams.TelemetrySubject(site, streams.GapKind, stream))
	msg.Header.Set(jetstream.MsgIDHeader, id.String())
	msg.Data = data
	return msg, nil
}

// gaps returns the records about the sequences from the next one up to before that were not
// delivered. In a stream of states they were superseded, and there are none.
func (f *Forwarder) gaps(ctx context.Context, r *session, before uint64) ([]*nats.Msg, error) {
	if f.cfg.Stream != streams.SiteTelemetry || before < r.next {
		return nil, nil
	}
	info, err := r.stream.Info(ctx)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", f.cfg.Stream, err)
	}
	var out []*nats.Msg
	found := missing(r.next, before, info.State.FirstSeq)
	for _, reason := range []string{streams.GapLimit, streams.GapLost} {
		s, ok := found[reason]
		if !ok {
			continue
		}
		f.cfg.Log.Warn("records were dropped before the hub had them", zap.Uint64("from", s.From), zap.Uint64("to", s.To), zap.String("reason", reason))
		f.logUnsaved(f.cfg.Drops.CountDropped(f.cfg.Stream, r.timeline, reason, s))
		msg, err := gapMessage(f.cfg.Site, f.cfg.Stream, r.timeline, s, reason)
		if err != nil {
			return nil, err
		}
		out = append(out, msg)
	}
	return out, nil
}

// reportDropped reports dropped records that no remaining message follows.
func (f *Forwarder) reportDropped(ctx context.Context, r *session) error {
	info, err := r.stream.Info(ctx)
	if err != nil {
		return fmt.Errorf("read %s: %w", f.cfg.Stream, err)
	}
	if info.State.Msgs > 0 {
		return nil
	}
	out, err := f.gaps(ctx, r, info.State.LastSeq)
	if err != nil || len(out) == 0 {
		return err
	}
	if err := f.hub.Put(ctx, out); err != nil {
		return err
	}
	r.done = info.State.LastSeq
	r.next = r.done + 1
	return nil
}

// logUnsaved logs that the counts of dropped records could not be saved. They are kept in memory
// and saved with the next change; forwarding continues.
func (f *Forwarder) logUnsaved(err error) {
	if err != nil {
		f.cfg.Log.Warn("counts of dropped records not saved, kept in memory", zap.Error(err))
	}
}
