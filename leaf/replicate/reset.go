package replicate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/leaf/transfer"
	"github.com/petiole-io/petiole/streams"
)

const (
	// staleRequest is how long nats-server 2.15.2 answers a request of a leaf whose connection
	// has ended (docs/upstream.md, 9). Those deliveries reach nobody.
	staleRequest = 2 * time.Second
	// resetPace is the time between two resets while an earlier request is open.
	resetPace = 20 * time.Millisecond
	// resetPatience is the time after which an unanswered reset is repeated for the first time.
	resetPatience = 2 * time.Second
)

// sessionStart is where a session starts.
type sessionStart struct {
	// identity is the identity of the hub's stream.
	identity string
	// rewoundFrom is the sequence up to which the hub had received acknowledgements if the site
	// has less, and 0 otherwise: deliveries up to there were lost here. The hub counts messages
	// of other sites as delivered, so most sites seem to have less without having lost anything.
	rewoundFrom uint64
	// waiting is the number of messages that the hub has for this site.
	waiting uint64
	// roundTrip is how long the last question took.
	roundTrip time.Duration
	// position is the sequence up to which the site has everything.
	position uint64
}

// rewind resets the hub's consumer to what this site has. A leaf that shares its identity with
// another by mistake gets what the other acknowledged.
//
// A request of the previous session may still be open at the hub, whose answers reach nobody:
// the consumer is reset until there is none. Two leaves with one identity take deliveries from
// each other all the time.
func (r *Replicator) rewind(ctx context.Context) (sessionStart, error) {
	have, err := lastSource(ctx, r.cfg.JS)
	if err != nil {
		return sessionStart{}, err
	}
	b, from := sessionStart{}, uint64(0)
	for start := time.Now(); ; {
		asked := time.Now()
		hub, err := r.reset(ctx, from)
		b.roundTrip = time.Since(asked)
		if err != nil {
			return sessionStart{}, err
		}
		b.identity, b.waiting = hub.floor.Identity, hub.pending
		again := hub.requests > 0 && time.Since(start) < staleRequest+resetPace
		if from == 0 {
			if from = rewindTo(have, hub.floor); from == hub.floor.Seq+1 {
				from = 0
			}
			if from > 0 {
				b.rewoundFrom, again = hub.floor.Seq, true
			}
		}
		if !again {
			if b.position = have.Seq; from > 0 {
				b.position = from - 1
			}
			return b, nil
		}
		if hub.requests == 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return sessionStart{}, context.Cause(ctx)
		case <-time.After(resetPace):
		}
	}
}

// rewindTo returns the sequence from which the hub has to deliver again, or 0 to continue: the
// site lacks what was acknowledged, or the hub's stream is another one.
func rewindTo(site, hub streams.HubPosition) uint64 {
	switch {
	case site.Identity != "" && site.Identity != hub.Identity:
		return 1
	case site.Seq < hub.Seq:
		return site.Seq + 1
	}
	return 0
}

// lastSource returns the position in DESIRED of the last message of SITE_DESIRED. It returns the
// zero value if there is none or it cannot be read, so that everything is requested again.
func lastSource(ctx context.Context, js jetstream.JetStream) (streams.HubPosition, error) {
	s, err := js.Stream(ctx, streams.SiteDesired)
	if err != nil {
		return streams.HubPosition{}, fmt.Errorf("open %s: %w", streams.SiteDesired, err)
	}
	state := s.CachedInfo().State
	if state.Msgs == 0 {
		return streams.HubPosition{}, nil
	}
	last, err := s.GetMsg(ctx, state.LastSeq)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return streams.HubPosition{}, nil
	case err != nil:
		return streams.HubPosition{}, fmt.Errorf("read the end of %s: %w", streams.SiteDesired, err)
	}
	at, err := streams.ParseHubPosition(last.Header.Get(streams.HeaderSource))
	if err != nil {
		return streams.HubPosition{}, nil // somebody else stored it: request everything again
	}
	return at, nil
}

// resetAnswer is the answer of the hub to a reset.
type resetAnswer struct {
	// floor is the position before the first message that will be delivered.
	floor streams.HubPosition
	// pending is the number of messages that wait for the site, requests the number of open
	// requests for them.
	pending  uint64
	requests int
}

// reset asks the hub to deliver from a sequence, or with 0 from the acknowledgement floor. A
// request or its answer can be lost while the connection comes up, and a reset may be repeated:
// it is, with twice the patience each time, until the hub has had as long as any answer may take.
func (r *Replicator) reset(ctx context.Context, from uint64) (resetAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, transfer.HubWait)
	defer cancel()
	for patience := resetPatience; ; patience *= 2 {
		attempt, done := context.WithTimeout(ctx, patience)
		answer, err := r.requestReset(attempt, from)
		lost := attempt.Err() != nil && ctx.Err() == nil
		done()
		if err == nil || !lost {
			return answer, err
		}
	}
}

func (r *Replicator) requestReset(ctx context.Context, from uint64) (resetAnswer, error) {
	msg := nats.NewMsg(streams.ResetSubject(r.cfg.Site))
	msg.Header.Set(streams.HeaderIdentity, "?")
	if from > 0 {
		msg.Data = fmt.Appendf(nil, `{"seq":%d}`, from)
	}
	var a resetAnswer
	reply, err := r.nc.RequestMsgWithContext(ctx, msg)
	if err == nil {
		r.cfg.Meter.Up(transfer.KindRequests, msg)
		r.cfg.Meter.Down(transfer.KindRequests, reply)
		a, err = parseReset(reply.Data)
	}
	if err != nil {
		return resetAnswer{}, fmt.Errorf("reset the hub's consumer %s: %w", r.cfg.Site, err)
	}
	a.floor.Identity = reply.Header.Get(streams.HeaderIdentity)
	return a, nil
}

// parseReset parses the answer to a reset.
func parseReset(data []byte) (resetAnswer, error) {
	var answer struct {
		Error    *jetstream.APIError `json:"error"`
		ResetSeq uint64              `json:"reset_seq"`
		Pending  uint64              `json:"num_pending"`
		Waiting  int                 `json:"num_waiting"`
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return resetAnswer{}, err
	}
	if answer.Error != nil {
		return resetAnswer{}, answer.Error
	}
	if answer.ResetSeq == 0 {
		return resetAnswer{}, errors.New("the answer has no reset_seq")
	}
	return resetAnswer{floor: streams.HubPosition{Seq: answer.ResetSeq - 1}, pending: answer.Pending, requests: answer.Waiting}, nil
}
