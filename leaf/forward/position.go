package forward

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/leaf/journal"
	"github.com/petiole-io/petiole/leaf/transfer"
	"github.com/petiole-io/petiole/streams"
)

const (
	// positionWait is how long the bridge may take to answer what the hub has. For
	// unansweredPeriod after it did not, only shortPositionWait is allowed, so that a link that
	// is up only briefly makes progress without the answer.
	positionWait      = 5 * time.Second
	shortPositionWait = 300 * time.Millisecond
	unansweredPeriod  = time.Minute
	// inDoubtWait is how long after a commit that may have been stored a session requires an
	// answer: on a half-open link the commit arrives, while neither its acknowledgement nor the
	// answer comes back.
	inDoubtWait = 15 * time.Second
)

// resumeState is what is known about a stream when a session starts to forward it.
type resumeState struct {
	// acked is the local acknowledgement floor. It may lag behind, and it may be ahead: a
	// message that a limit drops in flight counts as acknowledged.
	acked uint64
	// forwarded is what the leaf has recorded as forwarded. It is exact if it is from the
	// previous session of this process, and may lag behind otherwise.
	forwarded uint64
	exact     bool
	// last is the last sequence of the stream.
	last uint64
	// hub is the sequence up to which the hub has the stream, if known.
	hub   uint64
	known bool
	// older reports that the hub has messages of another copy of the stream behind hub, so that what
	// was acknowledged may be ahead of it.
	older bool
}

// firstToForward returns the first sequence to forward. The hub knows best: it may have stored
// what was never acknowledged, and may have lost what was.
func firstToForward(p resumeState) uint64 {
	at := max(p.acked, p.forwarded)
	switch {
	case p.known && p.older:
		at = max(at, p.hub)
	case p.known:
		at = p.hub
	case p.exact:
		at = p.forwarded
	}
	return min(at, p.last) + 1
}

// hubPosition asks the bridge for the sequence up to which the hub has this stream. The session
// starts from what is known here if it remains unknown.
func (f *Forwarder) hubPosition(ctx context.Context, l journal.Timeline, p *resumeState) error {
	answer, err := f.askPosition(ctx, l)
	if err != nil {
		if !f.inDoubtSince.IsZero() && time.Since(f.inDoubtSince) < inDoubtWait {
			return err
		}
		f.cfg.Log.Info("position at the hub unknown", zap.Error(err))
		return nil
	}
	if answer.ID == "" {
		// The hub has nothing. State is worth sending again; of telemetry it may have
		// dropped what it once had.
		p.known = f.cfg.Stream == streams.SiteReported
		return nil
	}
	err = p.locate(l, f.cfg.Stream, answer.ID)
	if err == nil && !p.known {
		f.cfg.Log.Info("the hub's last message belongs to another incarnation of this stream", zap.String("id", answer.ID), zap.String("known", answer.Known))
		if answer.Known != "" {
			p.older = true
			err = p.locate(l, f.cfg.Stream, answer.Known)
		}
	}
	switch {
	case errors.Is(err, journal.ErrRolledBack):
		f.cfg.Log.Warn("the stream was rolled back", zap.Uint64("forwarded", p.hub), zap.Uint64("last", p.last))
		f.cfg.Timelines.StartNew(p.last)
		return err
	case err != nil:
		f.cfg.Log.Info("position at the hub unknown", zap.Error(err))
	}
	return nil
}

// locate notes up to where the hub has the stream, which has the message with the id. It returns
// ErrRolledBack if that is behind the end of the stream.
func (p *resumeState) locate(l journal.Timeline, stream, id string) error {
	parsed, err := streams.ParseForwardID(id)
	if err != nil {
		return err
	}
	at, ok := l.Locate(stream, parsed)
	if ok && at > p.last {
		p.hub = at
		return journal.ErrRolledBack
	}
	p.hub, p.known = at, ok
	return nil
}

func (f *Forwarder) askPosition(ctx context.Context, l journal.Timeline) (streams.PositionAnswer, error) {
	patience := positionWait
	if time.Since(f.unansweredSince) < unansweredPeriod {
		patience = shortPositionWait
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	query, err := json.Marshal(streams.PositionQuery{Stream: f.cfg.Stream, Known: l.Incarnations()})
	if err != nil {
		return streams.PositionAnswer{}, fmt.Errorf("encode the position query: %w", err)
	}
	reply, err := transfer.Requester{Conn: f.cfg.JS.Conn(), Meter: f.cfg.Meter}.RequestWithContext(ctx, streams.RequestSubject(f.cfg.Site, streams.RequestPosition), query)
	if err != nil {
		// While the subjects of the hub become known, nobody responds, which takes no time.
		if patience == positionWait && !errors.Is(err, nats.ErrNoResponders) {
			f.unansweredSince = time.Now()
		}
		return streams.PositionAnswer{}, fmt.Errorf("query the position: %w", err)
	}
	f.unansweredSince = time.Time{}
	return parsePosition(reply.Data)
}

func parsePosition(data []byte) (streams.PositionAnswer, error) {
	var a streams.PositionAnswer
	if err := json.Unmarshal(data, &a); err != nil {
		return streams.PositionAnswer{}, fmt.Errorf("decode the position: %w", err)
	}
	if a.Error != "" {
		return streams.PositionAnswer{}, errors.New("the bridge does not know the position: " + a.Error)
	}
	return a, nil
}
