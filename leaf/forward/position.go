package forward

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

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
}

// firstToForward returns the first sequence to forward. The hub knows best: it may have stored
// what was never acknowledged, and may have lost what was.
func firstToForward(p resumeState) uint64 {
	at := max(p.acked, p.forwarded)
	switch {
	case p.known:
		at = p.hub
	case p.exact:
		at = p.forwarded
	}
	return min(at, p.last) + 1
}

// hubPosition asks the bridge for the sequence up to which the hub has this stream. It returns
// false if that is unknown; the session then starts from what is known here.
func (f *Forwarder) hubPosition(ctx context.Context, l journal.Timeline, last uint64) (uint64, bool, error) {
	id, err := f.askPosition(ctx)
	if err != nil {
		if !f.inDoubtSince.IsZero() && time.Since(f.inDoubtSince) < inDoubtWait {
			return 0, false, err
		}
		f.cfg.Log.Info("position at the hub unknown", zap.Error(err))
		return 0, false, nil
	}
	if id == "" {
		// The hub has nothing. State is worth sending again; of telemetry it may have
		// dropped what it once had.
		return 0, f.cfg.Stream == streams.SiteReported, nil
	}
	parsed, err := streams.ParseForwardID(id)
	if err != nil {
		f.cfg.Log.Info("position at the hub unknown", zap.Error(err))
		return 0, false, nil
	}
	at, ok := l.Locate(f.cfg.Stream, parsed)
	switch {
	case !ok:
		f.cfg.Log.Info("the hub's last message belongs to another incarnation of this stream", zap.String("id", id))
	case at > last:
		f.cfg.Log.Warn("the stream was rolled back", zap.Uint64("forwarded", at), zap.Uint64("last", last))
		f.cfg.Timelines.StartNew(last)
		return 0, false, journal.ErrRolledBack
	}
	return at, ok, nil
}

func (f *Forwarder) askPosition(ctx context.Context) (string, error) {
	patience := positionWait
	if time.Since(f.unansweredSince) < unansweredPeriod {
		patience = shortPositionWait
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	query, err := json.Marshal(streams.PositionQuery{Stream: f.cfg.Stream})
	if err != nil {
		return "", fmt.Errorf("encode the position query: %w", err)
	}
	reply, err := transfer.Requester{Conn: f.cfg.JS.Conn(), Meter: f.cfg.Meter}.RequestWithContext(ctx, streams.RequestSubject(f.cfg.Site, streams.RequestPosition), query)
	if err != nil {
		if patience == positionWait {
			f.unansweredSince = time.Now()
		}
		return "", fmt.Errorf("query the position: %w", err)
	}
	f.unansweredSince = time.Time{}
	return parsePosition(reply.Data)
}

func parsePosition(data []byte) (string, error) {
	var a streams.PositionAnswer
	if err := json.Unmarshal(data, &a); err != nil {
		return "", fmt.Errorf("decode the position: %w", err)
	}
	if a.Error != "" {
		return "", errors.New("the bridge does not know the position: " + a.Error)
	}
	return a.ID, nil
}
