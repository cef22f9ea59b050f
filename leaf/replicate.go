package leaf

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/streams"
)

const (
	// headerSource is the place in DESIRED of a message of SITE_DESIRED: the sequence
	// and the identity of the hub's stream.
	headerSource = "Petiole-Source"
	// headerIdentity asks for, and answers with, the identity of a stream: it changes
	// when the stream is made anew.
	headerIdentity = "Nats-Stream-Identity"
	// hubSilence is after how long without a message or a heartbeat a session ends.
	hubSilence = 3*streams.SyncHeartbeat + streams.SyncHeartbeat/3
)

// replicator brings what the hub's consumer of this site delivers into SITE_DESIRED, in
// order, and acknowledges it when it is on disk. What was acknowledged and is not there
// any more (a store rolled back by a power cut, or a new gateway) is asked for again.
type replicator struct {
	site  string
	js    jetstream.JetStream
	nc    *nats.Conn
	local store
	link  *link
	log   *zap.Logger
}

// Run replicates until ctx ends.
func (r *replicator) Run(ctx context.Context) error { return r.link.sessions(ctx, r.log, r.session) }

// session replicates until something fails and returns how many messages it stored.
//
// After the reset the hub numbers its deliveries from 1. Only an unbroken count from 1
// is stored and acknowledged; what was under way before the reset falls out of it.
func (r *replicator) session(ctx context.Context) (stored int, err error) {
	deliveries := make(chan *nats.Msg, 2*streams.SiteConsumer(r.site).MaxAckPending)
	sub, err := r.nc.ChanSubscribe(streams.SyncSubject(r.site), deliveries)
	if err != nil {
		return 0, fmt.Errorf("subscribe to %s: %w", streams.SyncSubject(r.site), err)
	}
	defer func() { err = errors.Join(err, ignoreClosed(sub.Unsubscribe())) }()
	identity, err := r.rewind(ctx)
	if err != nil {
		return 0, err
	}
	order := deliveryOrder{}
	for {
		batch, err := gather(ctx, deliveries, &order)
		if err != nil {
			return stored, err
		}
		if len(batch) == 0 {
			continue // a heartbeat, or what was under way before the reset
		}
		if err := r.store(ctx, identity, batch); err != nil {
			return stored, err
		}
		for _, d := range batch {
			if err := r.nc.Publish(d.Reply, []byte("+ACK")); err != nil {
				return stored, fmt.Errorf("acknowledge %s: %w", d.Subject, err)
			}
		}
		stored += len(batch)
	}
}

// rewind resets the hub's consumer to what this site has, and returns the identity of
// the hub's stream.
func (r *replicator) rewind(ctx context.Context) (string, error) {
	have, err := r.position(ctx)
	if err != nil {
		return "", err
	}
	floor, identity, err := r.reset(ctx, 0)
	if err != nil {
		return "", err
	}
	from := rewindTo(have, position{floor, identity})
	if from == 0 {
		return identity, nil
	}
	r.log.Warn("the hub believes this site has more than it has; asking again",
		zap.Uint64("acknowledged", floor), zap.Uint64("stored", have.seq), zap.Bool("recreated", have.identity != identity), zap.Uint64("from", from))
	_, identity, err = r.reset(ctx, from)
	return identity, err
}

// position is a place in a stream.
type position struct {
	seq      uint64
	identity string
}

// rewindTo decides from which sequence the hub has to deliver again, 0 for where it is:
// the site lacks what was acknowledged, or the hub's stream is another one.
func rewindTo(site, hub position) uint64 {
	switch {
	case site.identity != "" && site.identity != hub.identity:
		return 1
	case site.seq < hub.seq:
		return site.seq + 1
	}
	return 0
}

// position is where SITE_DESIRED ends.
func (r *replicator) position(ctx context.Context) (position, error) {
	s, err := r.js.Stream(ctx, streams.SiteDesired)
	if err != nil {
		return position{}, fmt.Errorf("open %s: %w", streams.SiteDesired, err)
	}
	state := s.CachedInfo().State
	if state.Msgs == 0 {
		return position{}, nil
	}
	last, err := s.GetMsg(ctx, state.LastSeq)
	if err != nil {
		return position{}, fmt.Errorf("read the end of %s: %w", streams.SiteDesired, err)
	}
	return parsePosition(last.Header.Get(headerSource))
}

func (p position) String() string { return strconv.FormatUint(p.seq, 10) + " " + p.identity }

func parsePosition(s string) (position, error) {
	seq, identity, _ := strings.Cut(s, " ")
	n, err := strconv.ParseUint(seq, 10, 64)
	if err != nil {
		return position{}, fmt.Errorf("header %s of the end of %s: %q is not a position", headerSource, streams.SiteDesired, s)
	}
	return position{n, identity}, nil
}

// reset asks the hub to deliver from a sequence, or with 0 from the acknowledgement
// floor, and returns that floor and the stream's identity.
func (r *replicator) reset(ctx context.Context, from uint64) (floor uint64, identity string, err error) {
	ctx, cancel := context.WithTimeout(ctx, ackWait)
	defer cancel()
	msg := nats.NewMsg(streams.ResetSubject(r.site))
	msg.Header.Set(headerIdentity, "?")
	if from > 0 {
		msg.Data = fmt.Appendf(nil, `{"seq":%d}`, from)
	}
	reply, err := r.nc.RequestMsgWithContext(ctx, msg)
	if err != nil {
		return 0, "", fmt.Errorf("reset the hub's consumer %s: %w", r.site, err)
	}
	var answer struct {
		Error    *jetstream.APIError `json:"error"`
		ResetSeq uint64              `json:"reset_seq"`
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return 0, "", fmt.Errorf("reset the hub's consumer %s: %w", r.site, err)
	}
	if answer.Error != nil {
		return 0, "", fmt.Errorf("reset the hub's consumer %s: %w", r.site, answer.Error)
	}
	if answer.ResetSeq == 0 {
		return 0, "", fmt.Errorf("reset the hub's consumer %s: the answer has no reset_seq", r.site)
	}
	return answer.ResetSeq - 1, reply.Header.Get(headerIdentity), nil
}

// store puts deliveries into SITE_DESIRED and returns when they are on disk.
func (r *replicator) store(ctx context.Context, identity string, batch []delivery) error {
	out := make([]*nats.Msg, len(batch))
	for i, d := range batch {
		msg := nats.NewMsg(d.Subject)
		for k, v := range d.Header {
			if !strings.HasPrefix(k, "Nats-") { // instructions to the hub's stream
				msg.Header[k] = v
			}
		}
		msg.Header.Set(headerSource, position{d.stream, identity}.String())
		msg.Data = d.Data
		out[i] = msg
	}
	return r.local.put(ctx, out)
}

func ignoreClosed(err error) error {
	if errors.Is(err, nats.ErrConnectionClosed) {
		return nil
	}
	return err
}

// gather waits for the next delivery and takes along what is there already.
func gather(ctx context.Context, deliveries <-chan *nats.Msg, order *deliveryOrder) ([]delivery, error) {
	var batch []delivery
	silence := time.NewTimer(hubSilence)
	defer silence.Stop()
	take := func(msg *nats.Msg) error {
		d, ok, err := order.take(msg)
		if ok {
			if d.consumer == 1 {
				batch = batch[:0] // the hub began again
			}
			batch = append(batch, d)
		}
		return err
	}
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-silence.C:
		return nil, fmt.Errorf("no heartbeat from the hub for %s", hubSilence)
	case msg := <-deliveries:
		if err := take(msg); err != nil {
			return nil, err
		}
	}
	for len(batch) < batchMessages {
		select {
		case msg := <-deliveries:
			if err := take(msg); err != nil {
				return nil, err
			}
		default:
			return batch, nil
		}
	}
	return batch, nil
}
