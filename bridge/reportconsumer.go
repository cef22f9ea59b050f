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
const maxUnackedTime = 2 * time.Second

// reportedAckWait is after how long the hub delivers an unacknowledged report again.
const reportedAckWait = 30 * time.Second

// partPatience is how old a report must be for its parts, if they are missing, to count as
// lost. They are stored before it, and all are there at once where they are stored as one
// batch; only a hub that comes back from a fault may find them later.
const maxPartsWait = 30 * time.Second

// intake reads REPORTED into the reports and hands them to the write-back. The messages of
// a site are looked into one after the other, those of several sites at the same time.
type reportConsumer struct {
	hub      *hub
	reports  *reports
	publish  *publisher
	liveness *liveness
	log      *zap.Logger
	count    *counters
	metrics  *siteMetrics
	queue    workqueue.TypedRateLimitingInterface[reportKey]
	// sites are those in whose inbox something is.
	sites   workqueue.TypedRateLimitingInterface[string]
	inbox   *inbox
	window  *ackWindow
	workers int
	// expiry is how long one request for reports stands: a bridge that stands still gets
	// none any more when another one leads.
	expiry time.Duration
	now    func() time.Time
	// woken has reports that were put off read again at once.
	wakeCh chan struct{}
	// woke and changed are called when a report shows that a node is alive, or a site
	// connected, again.
	onNodesAlive  func(site string, nodes []string)
	onSiteChanged func(site string)

	// present reports whether the object that a report is about is in the API, concerns
	// whether it also is on the node of the site that reports it.
	objectExists, ownsObject func(k reportKey) bool

	// putting is held by who changes what the bucket says.
	deferring sync.Mutex

	mu           sync.Mutex
	last         map[string]uint64
	obsolete     map[string][]obsolete
	unknownSites map[string]bool
	deferred     map[string]*deferred
	// parts are the sites that have parts in REPORTED, with the time at which those that
	// no report has are to be removed.
	parts map[string]time.Time
}

// newIntake makes one that has not started anything yet. The fields that it does not set are
// to be set before its first use.
func newReportConsumer(h *hub, r *reports, p *publisher, heard *liveness, written workqueue.TypedRateLimitingInterface[reportKey], sites workqueue.TypedRateLimitingInterface[string], log *zap.Logger) *reportConsumer {
	return &reportConsumer{
		hub: h, reports: r, publish: p, liveness: heard, log: log, queue: written, sites: sites,
		inbox: newInbox(), window: newAckWindow(), now: time.Now, wakeCh: make(chan struct{}, 1),
		last: map[string]uint64{}, obsolete: map[string][]obsolete{}, unknownSites: map[string]bool{}, deferred: map[string]*deferred{}, parts: map[string]time.Time{},
	}
}

// reportExpiry is the expiry of requests for reports under a lease.
func reportExpiry(lease time.Duration) time.Duration {
	return min(max(lease/2, time.Second), 5*time.Second)
}

// run takes reports from the durable consumer until ctx ends.
func (c *reportConsumer) run(ctx context.Context) error {
	cfg := streams.ReportedConsumer(reportedAckWait)
	if err := streams.EnsureConsumer(ctx, c.hub.js, streams.Reported, cfg); err != nil {
		return err
	}
	cons, err := c.hub.reported.Consumer(ctx, streams.BridgeConsumer)
	if err != nil {
		return fmt.Errorf("open consumer %s on %s: %w", streams.BridgeConsumer, streams.Reported, err)
	}
	// What a former leader was given and has not acknowledged comes at once, and not only
	// when its time to acknowledge is over.
	if _, err := c.hub.js.ResetConsumer(ctx, streams.Reported, streams.BridgeConsumer); err != nil {
		return fmt.Errorf("reset consumer %s on %s: %w", streams.BridgeConsumer, streams.Reported, err)
	}
	consuming, err := cons.Consume(func(msg jetstream.Msg) { c.enqueue(ctx, msg) },
		jetstream.PullMaxMessages(256), jetstream.PullExpiry(c.expiry), jetstream.PullHeartbeat(c.expiry/2),
		jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
			c.log.Debug("reports interrupted", zap.Error(err))
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
	working.Go(func() { c.collectGarbage(ctx) })
	working.Go(func() { c.collectOrphanParts(ctx) })
	working.Go(func() { c.processInboxes(ctx) })
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-consuming.Closed():
			return fmt.Errorf("consumer %s on %s ended", streams.BridgeConsumer, streams.Reported)
		case <-c.wakeCh:
			c.resumeDeferred(ctx)
		case <-tick.C:
			c.ackOverdue(ctx)
			c.resumeDeferred(ctx)
		}
	}
}

// take puts a message into its site's inbox, in the order of the stream. It runs on the one
// goroutine of all sites. What is more than a site's share is put off.
func (c *reportConsumer) enqueue(ctx context.Context, msg jetstream.Msg) {
	meta, err := msg.Metadata()
	if err != nil {
		c.log.Error("report without metadata", zap.String("subject", msg.Subject()), zap.Error(err))
		return
	}
	site, part := c.track(msg, meta)
	if part {
		c.ack(msg)
		return
	}
	a := newDelivery(msg, meta)
	a.from = msg
	if c.obsoleteFull(site) || !c.window.acquire(site, a.seq) {
		c.count.deferred.Add(1)
		c.deferReport(ctx, site, a)
		return
	}
	c.inbox.put(site, a)
	c.sites.Add(site)
}

// look looks into what is in the inboxes, until ctx ends.
func (c *reportConsumer) processInboxes(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		<-ctx.Done()
		c.sites.ShutDown()
	})
	for range c.workers {
		wg.Go(func() {
			for site, down := c.sites.Get(); !down; site, down = c.sites.Get() {
				if a := c.inbox.next(site); a != nil && ctx.Err() == nil {
					c.process(ctx, site, a)
					if c.inbox.done(site) {
						c.sites.Add(site)
					} else if c.hasUnread(site) {
						c.wake()
					}
				}
				c.sites.Done(site)
			}
		})
	}
}

// lookInto reads one message.
func (c *reportConsumer) process(ctx context.Context, site string, a *delivery) {
	if site == "" {
		c.reject(ctx, site, a, fmt.Errorf("%w: subject %q names no site", streams.ErrUndecodable, a.subject))
		return
	}
	if !c.publish.siteExists(site) {
		c.noteUnknownSite(site)
		c.deferReport(ctx, site, a)
		return
	}
	m, err := loadReport(ctx, c.hub.reported, a)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		err = c.checkMissingParts(ctx, a, err)
	}
	switch {
	case errors.Is(err, streams.ErrSuperseded):
		c.ack(a.from)
	case errors.Is(err, errIncomplete), errors.Is(err, streams.ErrUndecodable):
		c.reject(ctx, site, a, err)
	case err != nil:
		c.deferReport(ctx, site, a)
	case c.reports.room(site) <= 0:
		c.count.deferred.Add(1)
		c.deferReport(ctx, site, a)
	default:
		c.accept(site, m, a)
	}
}

// errIncomplete marks a report whose parts are missing and will not come.
var errIncomplete = errors.New("incomplete")

// missing is errIncomplete if a report whose parts were not found has been there for so
// long that they are lost, and the hub's leader has not got them either; a replica may
// have been behind. It is streams.ErrSuperseded if there is a newer report, and otherwise
// the error of the read.
func (c *reportConsumer) checkMissingParts(ctx context.Context, a *delivery, err error) error {
	if c.now().Sub(a.stored) < maxPartsWait {
		return err
	}
	newest, known := lastMessage(ctx, c.hub.js.Conn(), streams.Reported, a.subject)
	if known != nil {
		return known
	}
	if newest == nil || newest.Seq != a.seq {
		return streams.ErrSuperseded
	}
	complete, known := hasParts(ctx, c.hub.js.Conn(), newest)
	switch {
	case known != nil:
		return known
	case complete:
		return err
	}
	return fmt.Errorf("%w: %w, %v after the report was stored", errIncomplete, err, maxPartsWait)
}

func (c *reportConsumer) accept(site string, m streams.Message, a *delivery) {
	if m.Ref.Group == "" && (m.Ref.Resource == "nodes" || m.Ref.Resource == "pods") {
		woken, connected := c.liveness.report(site, m.Ref.Node, a.stored, time.Now())
		if connected {
			c.log.Info("site connected", zap.String("site", site))
			c.onSiteChanged(site)
		}
		if woken {
			c.onNodesAlive(site, []string{m.Ref.Node})
		}
	}
	k := reportKey{site, m.Ref}
	for _, stale := range c.reports.put(k, &report{seq: a.seq, msg: m, stored: a.stored, pending: true, delivered: a.from, receivedAt: c.now()}) {
		c.ack(stale)
	}
	c.queue.Add(k)
}

// reject keeps a message that cannot be read where a person finds it, then acknowledges it
// and has it removed.
func (c *reportConsumer) reject(ctx context.Context, site string, a *delivery, reason error) {
	if err := streams.QuarantineMessage(ctx, c.hub.js, streams.Quarantine, a.subject, a.header, a.data, reason); err != nil {
		c.log.Debug("report not set aside, it is read again", zap.String("subject", a.subject), zap.Error(err))
		c.deferReport(ctx, site, a)
		return
	}
	c.log.Warn("report quarantined", zap.String("subject", a.subject), zap.Uint64("seq", a.seq), zap.Error(reason))
	why := reasonUndecodable
	if errors.Is(reason, errIncomplete) {
		why = reasonIncomplete
	}
	c.countQuarantined(site, why)
	c.ack(a.from)
	c.markObsolete(site, obsolete{seq: a.seq})
}

// quarantined counts a report that was set aside.
func (c *reportConsumer) countQuarantined(site, reason string) {
	c.count.quarantined.Add(1)
	if site != "" {
		c.metrics.setAside(site, reason)
	}
}

// releaseOverdue acknowledges the reports that have waited for maxHold, whatever they wait
// for, when the bridge's bucket says that they are to be read again.
func (c *reportConsumer) ackOverdue(ctx context.Context) {
	for _, h := range c.reports.unackedBefore(c.now().Add(-maxUnackedTime)) {
		if err := c.recordDeferred(ctx, h.key.site, h.seq, false); err != nil {
			c.log.Debug("report not put off, it goes on waiting", zap.String("site", h.key.site), zap.Error(err))
			return
		}
		c.ack(c.reports.releaseMsg(h.key, h.seq))
	}
}

// later has a message delivered again after a while.
func (c *reportConsumer) nak(msg jetstream.Msg) {
	meta, err := msg.Metadata()
	if err == nil {
		c.window.release(meta.Sequence.Stream)
		err = msg.NakWithDelay(backoff(int(meta.NumDelivered)))
	}
	if err != nil {
		c.log.Debug("report not handed back, its ack wait decides", zap.String("subject", msg.Subject()), zap.Error(err))
	}
}

// ack acknowledges a message, unless it is nil: that one was acknowledged before. If that
// is lost the message comes again and does no harm.
func (c *reportConsumer) ack(msg jetstream.Msg) {
	if msg == nil {
		return
	}
	if meta, err := msg.Metadata(); err == nil {
		c.window.release(meta.Sequence.Stream)
	}
	if err := msg.Ack(); err != nil && !errors.Is(err, jetstream.ErrMsgAlreadyAckd) && !errors.Is(err, nats.ErrConnectionClosed) {
		c.log.Debug("report not acknowledged, it comes again", zap.String("subject", msg.Subject()), zap.Error(err))
	}
}
