package replicate

import (
	"cmp"
	"context"
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
	"github.com/petiole-io/petiole/streams/window"
)

// Config is what a Replicator needs.
type Config struct {
	Site    string
	JS      jetstream.JetStream
	Link    *link.Link
	Desired Desired
	// Heartbeat is the time between two heartbeats of the hub's consumer; default
	// streams.SyncHeartbeat. A session ends after more than three of them without any message.
	Heartbeat time.Duration
	Pace      Pace
	// MaxPayload returns the size of the largest message that both ends of the link take.
	MaxPayload func() int
	Meter      *transfer.Meter
	Counters   *Counters
	Log        *zap.Logger
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
	// Erase removes from the disk what is stored of deleted objects. It returns when nothing of them
	// can come back. The caller holds the lock.
	Erase(ctx context.Context, subjects []string) error
}

// Replicator stores what the hub's consumer of this site delivers. It requests again what was
// acknowledged and is missing (a store that a power cut rolled back, or a new gateway). When it has
// caught up, it compares the inventory on disk with the bridge's. Use New.
type Replicator struct {
	cfg   Config
	nc    *nats.Conn
	local transfer.Publisher

	// restarted is when a session ended because the bridge answered behind. Only one session
	// runs at a time.
	restarted time.Time
	// tombstones is nil until a session has loaded it. stored is SITE_DESIRED then.
	tombstones *tombstoneIndex
	stored     jetstream.Stream
	// window is learned from the line to this site.
	window window.Window
	// queries bounds the bytes of a comparison of inventories.
	queries window.Window
}

// New returns the replicator of a site. It starts nothing.
func New(cfg Config) *Replicator {
	cfg.Heartbeat = cmp.Or(cfg.Heartbeat, streams.SyncHeartbeat)
	nc := cfg.JS.Conn()
	return &Replicator{cfg: cfg, nc: nc, local: transfer.NewPublisher(nc, cfg.Site), window: newPullWindow(), queries: window.New(maxQuery, queryTarget)}
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
	in := batcher{meter: r.cfg.Meter, silence: 3*r.cfg.Heartbeat + r.cfg.Heartbeat/3, deliveries: deliveries, pull: r.puller(inbox, from), overtaker: newOvertaker(r, inbox, from.position)}
	for {
		got, err := in.next(ctx)
		if err != nil {
			return stored, err
		}
		err = r.storeAndAck(ctx, from.identity, in.overtaker, got.deliveries)
		if err == nil {
			err = r.storeUrgent(ctx, from.identity, in.overtaker, got.urgent)
		}
		if err != nil {
			return stored, cmp.Or(context.Cause(ctx), err)
		}
		if len(got.deliveries) > 0 && stored == 0 && got.deliveries[0].stream <= from.rewoundFrom {
			r.cfg.Log.Warn("the hub counted messages as delivered that this site lacks; they were requested again",
				zap.Uint64("acknowledged", from.rewoundFrom), zap.Uint64("from", got.deliveries[0].stream))
			r.cfg.Counters.rewinds.Inc()
		}
		stored += len(got.deliveries)
		if got.restarted {
			r.cfg.Log.Info("the hub delivers everything again")
			r.cfg.Counters.resyncs.Inc()
			return stored, link.ErrBeganAgain
		}
		check.observe(got)
	}
}

// puller returns what requests the deliveries of this session.
func (r *Replicator) puller(inbox string, from sessionStart) *puller {
	r.window.StartSession(from.waiting > 0)
	r.window.SetRoundTrip(from.roundTrip)
	return &puller{heartbeat: r.cfg.Heartbeat, inbox: inbox, waiting: from.waiting, window: &r.window, publish: func(inbox string, body []byte) error {
		msg := &nats.Msg{Subject: streams.PullSubject(r.cfg.Site), Reply: inbox, Data: body}
		r.cfg.Meter.Up(transfer.KindDesired, msg)
		return r.nc.PublishMsg(msg)
	}}
}

// storeAndAck stores deliveries and acknowledges them.
func (r *Replicator) storeAndAck(ctx context.Context, identity string, o *overtaker, batch []delivery) error {
	if len(batch) == 0 {
		return nil
	}
	if err := r.store(ctx, identity, o, batch); err != nil {
		return err
	}
	o.position = batch[len(batch)-1].stream
	r.cfg.Counters.replicated.Add(float64(len(batch)))
	for _, d := range batch {
		ack := &nats.Msg{Subject: d.Reply, Data: []byte("+ACK")}
		r.cfg.Meter.Up(transfer.KindDesired, ack)
		if err := r.nc.PublishMsg(ack); err != nil {
			return fmt.Errorf("acknowledge %s: %w", d.Subject, err)
		}
	}
	return nil
}

// store puts deliveries into SITE_DESIRED and returns when they are on disk.
func (r *Replicator) store(ctx context.Context, identity string, o *overtaker, batch []delivery) error {
	out := make([]*nats.Msg, len(batch))
	for i, d := range batch {
		var err error
		if out[i], err = r.storedMessage(ctx, d, identity, o); err != nil {
			return err
		}
	}
	return r.put(ctx, out)
}

// put stores messages and returns when they are on disk. The Secrets among their tombstones are
// removed from the disk first: if the leaf ends in between, the hub delivers the tombstones again.
// The end of the session does not interrupt that: readers would keep Secrets that the stream no
// longer has.
func (r *Replicator) put(ctx context.Context, out []*nats.Msg) error {
	r.cfg.Desired.Lock()
	defer r.cfg.Desired.Unlock()
	if secrets := deletedSecrets(out); len(secrets) > 0 {
		ctx = context.WithoutCancel(ctx)
		if err := r.cfg.Desired.Erase(ctx, secrets); err != nil {
			return err
		}
	}
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

// deletedSecrets returns the subjects of the tombstones of Secrets.
func deletedSecrets(batch []*nats.Msg) (subjects []string) {
	for _, m := range batch {
		_, ref, err := streams.ParseDesired(m.Subject)
		// What cannot be parsed is no Secret, and is quarantined when it is applied.
		if err == nil && ref.IsSecret() && m.Header.Get(streams.HeaderOp) == string(streams.OpDelete) {
			subjects = append(subjects, m.Subject)
		}
	}
	return subjects
}

func ignoreClosed(err error) error {
	if errors.Is(err, nats.ErrConnectionClosed) {
		return nil
	}
	return err
}
