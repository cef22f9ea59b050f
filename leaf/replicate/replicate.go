package replicate

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

	"github.com/petiole-io/petiole/leaf/link"
	"github.com/petiole-io/petiole/leaf/transfer"
	"github.com/petiole-io/petiole/streams"
)

const (
	// headerIdentity requests and returns the identity of a stream, which changes when the
	// stream is created again.
	headerIdentity = "Nats-Stream-Identity"
	// hubSilence is the time without a message or heartbeat after which a session ends.
	hubSilence = 3*streams.SyncHeartbeat + streams.SyncHeartbeat/3
	// staleRequest is how long nats-server 2.15.2 answers a request of a leaf whose connection
	// has ended (docs/upstream.md, 9). Those deliveries reach nobody.
	staleRequest = 2 * time.Second
	// resetPace is the time between two resets while an earlier request is open.
	resetPace = 20 * time.Millisecond
	// resetPatience is the time after which an unanswered reset is repeated for the first time.
	resetPatience = 2 * time.Second
)

// Config is what a Replicator needs.
type Config struct {
	Site     string
	JS       jetstream.JetStream
	Link     *link.Link
	Desired  Desired
	Pace     Pace
	Counters *Counters
	Log      *zap.Logger
}

// Desired is SITE_DESIRED. Its lock is held while the stream is changed, and while all of it is
// read.
type Desired interface {
	sync.Locker
	// MarkComplete is called when the site has caught up and the inventories were compared, if the
	// bridge answers.
	MarkComplete(context.Context)
	// ReportUnreadable is called when stored messages cannot be read. It does not block.
	ReportUnreadable()
}

// Replicator stores what the hub's consumer of this site delivers. It requests again what was
// acknowledged and is missing (a store that a power cut rolled back, or a new gateway). When it has
// caught up, it compares the inventory on disk with the bridge's. Use New.
type Replicator struct {
	cfg      Config
	nc       *nats.Conn
	local    transfer.Publisher
	counters *Counters

	// restarted is when a session ended because the bridge answered behind. Only one session
	// runs at a time.
	restarted time.Time
	// tombstones is nil until a session has loaded it.
	tombstones *tombstoneIndex
	// window is learned from the line to this site.
	window transfer.Window
}

// New returns the replicator of a site. It starts nothing.
func New(cfg Config) *Replicator {
	nc := cfg.JS.Conn()
	return &Replicator{cfg: cfg, nc: nc, local: transfer.NewPublisher(nc, cfg.Site), counters: cfg.Counters, window: newPullWindow()}
}

// Run replicates until ctx ends.
func (r *Replicator) Run(ctx context.Context) error {
	return r.cfg.Link.Sessions(ctx, r.cfg.Log, r.session)
}

// session replicates until something fails and returns how many messages it stored.
//
// After the reset the hub numbers its deliveries from 1, and delivers only on request. Only an
// unbroken run from 1 is stored and acknowledged. If the hub starts again later, its stream may
// be another one, which only a reset shows: nothing of that run is stored, and it is delivered
// again in the next session.
func (r *Replicator) session(ctx context.Context) (stored int, err error) {
	deliveries := make(chan *nats.Msg, 2*streams.SiteConsumer(r.cfg.Site).MaxAckPending)
	inbox := r.nc.NewInbox()
	for _, subject := range []string{streams.SyncSubject(r.cfg.Site), inbox + ".*"} {
		sub, err := r.nc.ChanSubscribe(subject, deliveries)
		if err != nil {
			return 0, fmt.Errorf("subscribe to %s: %w", subject, err)
		}
		defer func() { err = errors.Join(err, ignoreClosed(sub.Unsubscribe())) }()
	}
	if err := r.loadTombstones(ctx); err != nil {
		return 0, err
	}
	from, err := r.rewind(ctx)
	if err != nil {
		return 0, err
	}
	ctx, end := context.WithCancelCause(ctx)
	check := newAntiEntropy(r, from.identity)
	var checking sync.WaitGroup
	checking.Go(func() {
		if err := check.run(ctx); err != nil {
			end(err)
		}
	})
	defer checking.Wait()
	defer end(nil)
	in := batcher{deliveries: deliveries, pull: r.puller(inbox, from.waiting)}
	for {
		got, err := in.next(ctx)
		if err != nil {
			return stored, err
		}
		if err := r.storeAndAck(ctx, from.identity, got.deliveries); err != nil {
			return stored, cmp.Or(context.Cause(ctx), err)
		}
		if len(got.deliveries) > 0 && stored == 0 && got.deliveries[0].stream <= from.rewoundFrom {
			r.cfg.Log.Warn("the hub counted messages as delivered that this site lacks; they were requested again",
				zap.Uint64("acknowledged", from.rewoundFrom), zap.Uint64("from", got.deliveries[0].stream))
			r.counters.rewinds.Inc()
		}
		stored += len(got.deliveries)
		if got.restarted {
			r.cfg.Log.Info("the hub delivers everything again")
			r.counters.resyncs.Inc()
			return stored, link.ErrBeganAgain
		}
		check.observe(got)
	}
}

// puller returns what requests the deliveries of this session. waiting is the number of messages
// at the hub.
func (r *Replicator) puller(inbox string, waiting uint64) *puller {
	r.window.StartSession(waiting > 0)
	return &puller{inbox: inbox, waiting: waiting, window: &r.window, publish: func(inbox string, body []byte) error {
		return r.nc.PublishRequest(streams.PullSubject(r.cfg.Site), inbox, body)
	}}
}

// storeAndAck stores deliveries and acknowledges them.
func (r *Replicator) storeAndAck(ctx context.Context, identity string, batch []delivery) error {
	if len(batch) == 0 {
		return nil
	}
	if err := r.store(ctx, identity, batch); err != nil {
		return err
	}
	r.counters.replicated.Add(float64(len(batch)))
	for _, d := range batch {
		if err := r.nc.Publish(d.Reply, []byte("+ACK")); err != nil {
			return fmt.Errorf("acknowledge %s: %w", d.Subject, err)
		}
	}
	return nil
}

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
		hub, err := r.reset(ctx, from)
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
	msg.Header.Set(headerIdentity, "?")
	if from > 0 {
		msg.Data = fmt.Appendf(nil, `{"seq":%d}`, from)
	}
	var a resetAnswer
	reply, err := r.nc.RequestMsgWithContext(ctx, msg)
	if err == nil {
		a, err = parseReset(reply.Data)
	}
	if err != nil {
		return resetAnswer{}, fmt.Errorf("reset the hub's consumer %s: %w", r.cfg.Site, err)
	}
	a.floor.Identity = reply.Header.Get(headerIdentity)
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

// store puts deliveries into SITE_DESIRED and returns when they are on disk.
func (r *Replicator) store(ctx context.Context, identity string, batch []delivery) error {
	out := make([]*nats.Msg, len(batch))
	for i, d := range batch {
		var err error
		if out[i], err = r.storedMessage(ctx, d, identity); err != nil {
			return err
		}
	}
	r.cfg.Desired.Lock()
	defer r.cfg.Desired.Unlock()
	if err := r.local.Put(ctx, out); err != nil {
		r.tombstones = nil // some of it may be on disk: the next session reads it
		return err
	}
	now := time.Now()
	for _, m := range out {
		r.tombstones.record(m.Subject, m.Header, now)
	}
	return nil
}

func ignoreClosed(err error) error {
	if errors.Is(err, nats.ErrConnectionClosed) {
		return nil
	}
	return err
}
