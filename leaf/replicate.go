package leaf

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/streams"
)

const (
	// headerIdentity asks for, and answers with, the identity of a stream: it changes
	// when the stream is made anew.
	headerIdentity = "Nats-Stream-Identity"
	// hubSilence is after how long without a message or a heartbeat a session ends.
	hubSilence = 3*streams.SyncHeartbeat + streams.SyncHeartbeat/3
	// resetSettle is how long after a reset deliveries of before it may still come.
	resetSettle = time.Second
)

// replicator brings what the hub's consumer of this site delivers into SITE_DESIRED, in
// order, and acknowledges it when it is on disk. What was acknowledged and is not there
// any more (a store rolled back by a power cut, or a new gateway) is asked for again.
// When it has caught up it has what is on disk compared with the bridge's manifest.
type replicator struct {
	site   string
	js     jetstream.JetStream
	nc     *nats.Conn
	local  store
	link   *link
	counts *counts
	log    *zap.Logger
	pace   checkPace
	// complete is called when the site has caught up and was compared, as far as the
	// bridge answers; unreadable when what is stored cannot be read. Neither blocks.
	complete   func(context.Context)
	unreadable func()
	// storing is held while SITE_DESIRED is changed, and while all of it is read.
	storing *sync.Mutex

	// restarted is when a session ended because the bridge said behind. One session
	// runs at a time.
	restarted time.Time
	// buried is nil until a session has read it.
	buried *buried
}

// Run replicates until ctx ends.
func (r *replicator) Run(ctx context.Context) error { return r.link.sessions(ctx, r.log, r.session) }

// session replicates until something fails and returns how many messages it stored.
//
// After the reset the hub numbers its deliveries from 1. Only an unbroken count from 1
// is stored and acknowledged; what was under way before the reset falls out of it. When
// the hub begins again later, its stream may be another one, which only a reset tells:
// nothing of that run is taken, and it comes again behind the reset.
func (r *replicator) session(ctx context.Context) (stored int, err error) {
	deliveries := make(chan *nats.Msg, 2*streams.SiteConsumer(r.site).MaxAckPending)
	sub, err := r.nc.ChanSubscribe(streams.SyncSubject(r.site), deliveries)
	if err != nil {
		return 0, fmt.Errorf("subscribe to %s: %w", streams.SyncSubject(r.site), err)
	}
	defer func() { err = errors.Join(err, ignoreClosed(sub.Unsubscribe())) }()
	if err := r.exhume(ctx); err != nil {
		return 0, err
	}
	identity, lacked, err := r.rewind(ctx)
	if err != nil {
		return 0, err
	}
	ctx, end := context.WithCancelCause(ctx)
	check := newChecker(r, identity)
	var checking sync.WaitGroup
	checking.Go(func() {
		if err := check.run(ctx); err != nil {
			end(err)
		}
	})
	defer checking.Wait()
	defer end(nil)
	in := intake{deliveries: deliveries}
	asked, twice, top, kept := time.Now(), lacked > 0, uint64(0), uint64(0)
	for {
		got, err := in.gather(ctx)
		if err != nil {
			return stored, err
		}
		if got.began && twice {
			// What came between the two resets of this session is stored.
			got.began, twice, kept = false, false, top
		}
		if got.began {
			r.log.Info("the hub delivers everything again")
			r.counts.resyncs.Inc()
		}
		if got.began && time.Since(asked) > resetSettle {
			check.note(arrival{batch: got.batch, began: true})
			if identity, lacked, err = r.rewind(ctx); err != nil {
				return stored, cmp.Or(context.Cause(ctx), err)
			}
			check.of(identity)
			in.order, asked, twice, top, kept = deliveryOrder{}, time.Now(), lacked > 0, 0, 0
			continue
		}
		if err := r.takeOver(ctx, identity, got.batch, kept); err != nil {
			return stored, cmp.Or(context.Cause(ctx), err)
		}
		if len(got.batch) > 0 {
			if first := got.batch[0].stream; first <= lacked {
				r.log.Warn("the hub believed this site had more than it has; it was asked again",
					zap.Uint64("acknowledged", lacked), zap.Uint64("from", first))
				r.counts.rewinds.Inc()
			}
			lacked, top = 0, max(top, got.batch[len(got.batch)-1].stream)
		}
		stored += len(got.batch)
		check.note(got)
	}
}

// takeOver stores what of a batch is behind kept, and acknowledges all of it.
func (r *replicator) takeOver(ctx context.Context, identity string, batch []delivery, kept uint64) error {
	fresh := batch
	for len(fresh) > 0 && fresh[0].stream <= kept {
		fresh = fresh[1:]
	}
	if len(fresh) > 0 {
		if err := r.store(ctx, identity, fresh); err != nil {
			return err
		}
	}
	r.counts.replicated.Add(float64(len(fresh)))
	for _, d := range batch {
		if err := r.nc.Publish(d.Reply, []byte("+ACK")); err != nil {
			return fmt.Errorf("acknowledge %s: %w", d.Subject, err)
		}
	}
	return nil
}

// rewind resets the hub's consumer to what this site has, and returns the identity of
// the hub's stream. lacked is up to where the hub had been acknowledged when the site was
// found behind, 0 when it was not: what comes from below it was lost here. The hub counts
// other sites' messages as passed, so that most sites look behind without having lost
// anything; the second reset then has what waits delivered twice at worst. A leaf that
// shares its identity with another by mistake gets what the other acknowledged.
func (r *replicator) rewind(ctx context.Context) (identity string, lacked uint64, err error) {
	have, err := sourceOf(ctx, r.js)
	if err != nil {
		return "", 0, err
	}
	floor, identity, err := r.reset(ctx, 0)
	if err != nil {
		return "", 0, err
	}
	from := rewindTo(have, streams.Source{Seq: floor, Identity: identity})
	if from == 0 || from == floor+1 {
		return identity, 0, nil
	}
	_, identity, err = r.reset(ctx, from)
	return identity, floor, err
}

// rewindTo decides from which sequence the hub has to deliver again, 0 for where it is:
// the site lacks what was acknowledged, or the hub's stream is another one.
func rewindTo(site, hub streams.Source) uint64 {
	switch {
	case site.Identity != "" && site.Identity != hub.Identity:
		return 1
	case site.Seq < hub.Seq:
		return site.Seq + 1
	}
	return 0
}

// sourceOf is where SITE_DESIRED ends, as a place in DESIRED: the zero value when it is
// empty, or when its end cannot be read, so that everything is asked for again.
func sourceOf(ctx context.Context, js jetstream.JetStream) (streams.Source, error) {
	s, err := js.Stream(ctx, streams.SiteDesired)
	if err != nil {
		return streams.Source{}, fmt.Errorf("open %s: %w", streams.SiteDesired, err)
	}
	state := s.CachedInfo().State
	if state.Msgs == 0 {
		return streams.Source{}, nil
	}
	last, err := s.GetMsg(ctx, state.LastSeq)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return streams.Source{}, nil
	case err != nil:
		return streams.Source{}, fmt.Errorf("read the end of %s: %w", streams.SiteDesired, err)
	}
	at, err := streams.ParseSource(last.Header.Get(streams.HeaderSource))
	if err != nil {
		return streams.Source{}, nil //nolint:nilerr // not of the replicator's making: ask again
	}
	return at, nil
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
	if err == nil {
		floor, err = parseReset(reply.Data)
	}
	if err != nil {
		return 0, "", fmt.Errorf("reset the hub's consumer %s: %w", r.site, err)
	}
	return floor, reply.Header.Get(headerIdentity), nil
}

// parseReset reads the answer to a reset: the sequence before the first that will be
// delivered.
func parseReset(data []byte) (uint64, error) {
	var answer struct {
		Error    *jetstream.APIError `json:"error"`
		ResetSeq uint64              `json:"reset_seq"`
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return 0, err
	}
	if answer.Error != nil {
		return 0, answer.Error
	}
	if answer.ResetSeq == 0 {
		return 0, errors.New("the answer has no reset_seq")
	}
	return answer.ResetSeq - 1, nil
}

// store puts deliveries into SITE_DESIRED and returns when they are on disk.
func (r *replicator) store(ctx context.Context, identity string, batch []delivery) error {
	out := make([]*nats.Msg, len(batch))
	for i, d := range batch {
		var err error
		if out[i], err = r.message(ctx, d, identity); err != nil {
			return err
		}
	}
	r.storing.Lock()
	defer r.storing.Unlock()
	if err := r.local.put(ctx, out); err != nil {
		r.buried = nil // some of it may be on disk: the next session reads it
		return err
	}
	now := time.Now()
	for _, m := range out {
		r.buried.stored(m.Subject, m.Header, now)
	}
	return nil
}

func ignoreClosed(err error) error {
	if errors.Is(err, nats.ErrConnectionClosed) {
		return nil
	}
	return err
}
