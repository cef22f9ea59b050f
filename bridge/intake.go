package bridge

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"k8s.io/client-go/util/workqueue"

	"github.com/petiole-io/petiole/streams"
)

// maxHold is for how long a report is kept unacknowledged. One that waits for longer is
// remembered in the bridge's bucket, acknowledged, and goes on waiting: it must not keep
// the place of others', nor those that may be removed only when it has been acknowledged.
const maxHold = 2 * time.Second

// reportedAckWait is after how long the hub delivers an unacknowledged report again.
const reportedAckWait = 30 * time.Second

// partPatience is how old a report must be for its parts, if they are missing, to count as
// lost. They are stored before it, and all are there at once where they are stored as one
// batch; only a hub that comes back from a fault may find them later.
const partPatience = 30 * time.Second

// intake reads REPORTED into the reports and hands them to the write-back. The messages of
// a site are looked into one after the other, those of several sites at the same time.
type intake struct {
	hub      *hub
	reports  *reports
	publish  *publisher
	presence *presence
	log      *zap.Logger
	count    *counters
	metrics  *siteMetrics
	queue    workqueue.TypedRateLimitingInterface[reportKey]
	// sites are those in whose inbox something is.
	sites   workqueue.TypedRateLimitingInterface[string]
	inbox   *inbox
	unacked *unacked
	workers int
	// expiry is how long one request for reports stands: a bridge that stands still gets
	// none any more when another one leads.
	expiry time.Duration
	now    func() time.Time
	// woken has reports that were put off read again at once.
	woken chan struct{}
	// woke and changed are called when a report shows that a node is alive, or a site
	// connected, again.
	woke    func(site string, nodes []string)
	changed func(site string)

	// present reports whether the object that a report is about is in the API, concerns
	// whether it also is on the node of the site that reports it.
	present, concerns func(k reportKey) bool

	// putting is held by who changes what the bucket says.
	putting sync.Mutex

	mu     sync.Mutex
	last   map[string]uint64
	spent  map[string][]spent
	strays map[string]bool
	putOff map[string]*putOff
	// parts are the sites that have parts in REPORTED, with the time at which those that
	// no report has are to be removed.
	parts map[string]time.Time
}

// newIntake makes one that has not started anything yet. The fields that it does not set are
// to be set before its first use.
func newIntake(h *hub, r *reports, p *publisher, heard *presence, written workqueue.TypedRateLimitingInterface[reportKey], sites workqueue.TypedRateLimitingInterface[string], log *zap.Logger) *intake {
	return &intake{
		hub: h, reports: r, publish: p, presence: heard, log: log, queue: written, sites: sites,
		inbox: newInbox(), unacked: newUnacked(), now: time.Now, woken: make(chan struct{}, 1),
		last: map[string]uint64{}, spent: map[string][]spent{}, strays: map[string]bool{}, putOff: map[string]*putOff{}, parts: map[string]time.Time{},
	}
}

// reportExpiry is the expiry of requests for reports under a lease.
func reportExpiry(lease time.Duration) time.Duration {
	return min(max(lease/2, time.Second), 5*time.Second)
}

// run takes reports from the durable consumer until ctx ends.
func (i *intake) run(ctx context.Context) error {
	cfg := streams.ReportedConsumer(reportedAckWait)
	if err := streams.EnsureConsumer(ctx, i.hub.js, streams.Reported, cfg); err != nil {
		return err
	}
	cons, err := i.hub.reported.Consumer(ctx, streams.BridgeConsumer)
	if err != nil {
		return fmt.Errorf("open consumer %s on %s: %w", streams.BridgeConsumer, streams.Reported, err)
	}
	// What a former leader was given and has not acknowledged comes at once, and not only
	// when its time to acknowledge is over.
	if _, err := i.hub.js.ResetConsumer(ctx, streams.Reported, streams.BridgeConsumer); err != nil {
		return fmt.Errorf("reset consumer %s on %s: %w", streams.BridgeConsumer, streams.Reported, err)
	}
	consuming, err := cons.Consume(func(msg jetstream.Msg) { i.take(ctx, msg) },
		jetstream.PullMaxMessages(256), jetstream.PullExpiry(i.expiry), jetstream.PullHeartbeat(i.expiry/2),
		jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
			i.log.Debug("reports interrupted", zap.Error(err))
		}))
	if err != nil {
		return fmt.Errorf("consume %s: %w", streams.Reported, err)
	}
	defer func() {
		consuming.Stop()
		<-consuming.Closed()
	}()
	var working sync.WaitGroup
	defer working.Wait()
	working.Go(func() { i.trim(ctx) })
	working.Go(func() { i.collectParts(ctx) })
	working.Go(func() { i.look(ctx) })
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-consuming.Closed():
			return fmt.Errorf("consumer %s on %s ended", streams.BridgeConsumer, streams.Reported)
		case <-i.woken:
			i.resume(ctx)
		case <-tick.C:
			i.releaseOverdue(ctx)
			i.resume(ctx)
		}
	}
}

// take puts a message into its site's inbox, in the order of the stream. It runs on the one
// goroutine of all sites. What is more than a site's share is put off.
func (i *intake) take(ctx context.Context, msg jetstream.Msg) {
	meta, err := msg.Metadata()
	if err != nil {
		i.log.Error("report without metadata", zap.String("subject", msg.Subject()), zap.Error(err))
		return
	}
	site, part := i.note(msg, meta)
	if part {
		i.ack(msg)
		return
	}
	a := arrivalOf(msg, meta)
	a.from = msg
	if i.full(site) || !i.unacked.hold(site, a.seq) {
		i.count.deferred.Add(1)
		i.leave(ctx, site, a)
		return
	}
	i.inbox.put(site, a)
	i.sites.Add(site)
}

// look looks into what is in the inboxes, until ctx ends.
func (i *intake) look(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		<-ctx.Done()
		i.sites.ShutDown()
	})
	for range i.workers {
		wg.Go(func() {
			for site, down := i.sites.Get(); !down; site, down = i.sites.Get() {
				if a := i.inbox.next(site); a != nil && ctx.Err() == nil {
					i.lookInto(ctx, site, a)
					if i.inbox.done(site) {
						i.sites.Add(site)
					} else if i.moreToRead(site) {
						i.wake()
					}
				}
				i.sites.Done(site)
			}
		})
	}
}

// lookInto reads one message.
func (i *intake) lookInto(ctx context.Context, site string, a *arrival) {
	if site == "" {
		i.reject(ctx, site, a, fmt.Errorf("%w: subject %q names no site", streams.ErrUndecodable, a.subject))
		return
	}
	if !i.publish.siteExists(site) {
		i.stray(site)
		i.leave(ctx, site, a)
		return
	}
	m, err := loadReport(ctx, i.hub.reported, a)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		err = i.missing(ctx, a, err)
	}
	switch {
	case errors.Is(err, streams.ErrSuperseded):
		i.ack(a.from)
	case errors.Is(err, errIncomplete), errors.Is(err, streams.ErrUndecodable):
		i.reject(ctx, site, a, err)
	case err != nil:
		i.leave(ctx, site, a)
	case i.reports.room(site) <= 0:
		i.count.deferred.Add(1)
		i.leave(ctx, site, a)
	default:
		i.accept(site, m, a)
	}
}

// errIncomplete marks a report whose parts are missing and will not come.
var errIncomplete = errors.New("incomplete")

// missing is errIncomplete if a report whose parts were not found has been there for so
// long that they are lost, and the hub's leader has not got them either; a replica may
// have been behind. It is streams.ErrSuperseded if there is a newer report, and otherwise
// the error of the read.
func (i *intake) missing(ctx context.Context, a *arrival, err error) error {
	if i.now().Sub(a.stored) < partPatience {
		return err
	}
	newest, known := lastMessage(ctx, i.hub.js.Conn(), streams.Reported, a.subject)
	if known != nil {
		return known
	}
	if newest == nil || newest.Seq != a.seq {
		return streams.ErrSuperseded
	}
	complete, known := hasParts(ctx, i.hub.js.Conn(), newest)
	switch {
	case known != nil:
		return known
	case complete:
		return err
	}
	return fmt.Errorf("%w: %w, %v after the report was stored", errIncomplete, err, partPatience)
}

func (i *intake) accept(site string, m streams.Message, a *arrival) {
	if m.Ref.Group == "" && (m.Ref.Resource == "nodes" || m.Ref.Resource == "pods") {
		woken, connected := i.presence.report(site, m.Ref.Node, a.stored, time.Now())
		if connected {
			i.log.Info("site connected", zap.String("site", site))
			i.changed(site)
		}
		if woken {
			i.woke(site, []string{m.Ref.Node})
		}
	}
	k := reportKey{site, m.Ref}
	for _, stale := range i.reports.put(k, &report{seq: a.seq, msg: m, stored: a.stored, fresh: true, from: a.from, taken: i.now()}) {
		i.ack(stale)
	}
	i.queue.Add(k)
}

// reject keeps a message that cannot be read where a person finds it, then acknowledges it
// and has it removed.
func (i *intake) reject(ctx context.Context, site string, a *arrival, reason error) {
	if err := streams.QuarantineMessage(ctx, i.hub.js, streams.Quarantine, a.subject, a.header, a.data, reason); err != nil {
		i.log.Debug("report not set aside, it is read again", zap.String("subject", a.subject), zap.Error(err))
		i.leave(ctx, site, a)
		return
	}
	i.log.Warn("report quarantined", zap.String("subject", a.subject), zap.Uint64("seq", a.seq), zap.Error(reason))
	why := reasonUndecodable
	if errors.Is(reason, errIncomplete) {
		why = reasonIncomplete
	}
	i.quarantined(site, why)
	i.ack(a.from)
	i.discard(site, spent{seq: a.seq})
}

// quarantined counts a report that was set aside.
func (i *intake) quarantined(site, reason string) {
	i.count.quarantined.Add(1)
	if site != "" {
		i.metrics.setAside(site, reason)
	}
}

// releaseOverdue acknowledges the reports that have waited for maxHold, whatever they wait
// for, when the bridge's bucket says that they are to be read again.
func (i *intake) releaseOverdue(ctx context.Context) {
	for _, h := range i.reports.heldSince(i.now().Add(-maxHold)) {
		if err := i.put(ctx, h.key.site, h.seq, false); err != nil {
			i.log.Debug("report not put off, it goes on waiting", zap.String("site", h.key.site), zap.Error(err))
			return
		}
		i.ack(i.reports.release(h.key, h.seq))
	}
}

// later has a message delivered again after a while.
func (i *intake) later(msg jetstream.Msg) {
	meta, err := msg.Metadata()
	if err == nil {
		i.unacked.free(meta.Sequence.Stream)
		err = msg.NakWithDelay(backoff(int(meta.NumDelivered)))
	}
	if err != nil {
		i.log.Debug("report not handed back, its ack wait decides", zap.String("subject", msg.Subject()), zap.Error(err))
	}
}

// ack acknowledges a message, unless it is nil: that one was acknowledged before. If that
// is lost the message comes again and does no harm.
func (i *intake) ack(msg jetstream.Msg) {
	if msg == nil {
		return
	}
	if meta, err := msg.Metadata(); err == nil {
		i.unacked.free(meta.Sequence.Stream)
	}
	if err := msg.Ack(); err != nil && !errors.Is(err, jetstream.ErrMsgAlreadyAckd) && !errors.Is(err, nats.ErrConnectionClosed) {
		i.log.Debug("report not acknowledged, it comes again", zap.String("subject", msg.Subject()), zap.Error(err))
	}
}
