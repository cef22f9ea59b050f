package reported

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/streams"
)

// maxUnackedTime is the time for which a report stays unacknowledged. A report that waits
// longer is recorded in the bridge's bucket and acknowledged; it goes on waiting, but no
// longer occupies the ack window that all sites share, nor holds back the consumer's ack
// floor.
const maxUnackedTime = 2 * time.Second

// reportedAckWait is the time after which the hub redelivers an unacknowledged report.
const reportedAckWait = 30 * time.Second

// maxPartsWait is the age at which a report's missing parts count as lost. Parts are stored
// before their report, or in one batch with it; only a hub that recovers from a fault can find
// them later.
const maxPartsWait = 30 * time.Second

// consumer reads REPORTED into reports and queues them for writing. It processes the messages
// of one site in order, and those of several sites in parallel.
type consumer struct {
	Config
	reports *reports
	inbox   *inbox
	window  *ackWindow
	// wakeCh starts the next read of deferred reports at once.
	wakeCh    chan struct{}
	deferrals *deferrals
	garbage   *garbage
	parts     *orphanParts
	// unknownSites holds the sites whose missing Site object has been logged.
	unknownSites sync.Map
	// nodesAlive is called when a report shows that nodes of a site are alive again.
	nodesAlive func(site string, nodes []string)
}

func newConsumer(cfg Config, r *reports, nodesAlive func(site string, nodes []string)) *consumer {
	parts := newOrphanParts(cfg.Hub, cfg.Log, cfg.now)
	return &consumer{
		Config: cfg, reports: r, nodesAlive: nodesAlive, inbox: newInbox(), window: newAckWindow(cfg.Log), wakeCh: make(chan struct{}, 1),
		deferrals: newDeferrals(cfg.Hub.Bucket, cfg.Fence), parts: parts, garbage: newGarbage(cfg.Hub.Reported, parts, cfg.Log, &cfg.Counters.GCRounds),
	}
}

// run consumes reports until ctx ends.
func (c *consumer) run(ctx context.Context) error {
	cfg := streams.ReportedConsumer(reportedAckWait)
	if err := streams.EnsureConsumer(ctx, c.Hub.JS, streams.Reported, cfg); err != nil {
		return err
	}
	cons, err := c.Hub.Reported.Consumer(ctx, streams.BridgeConsumer)
	if err != nil {
		return fmt.Errorf("open consumer %s on %s: %w", streams.BridgeConsumer, streams.Reported, err)
	}
	// Reports that a former leader received but did not acknowledge are redelivered at once,
	// not only after their ack wait.
	if _, err := c.Hub.JS.ResetConsumer(ctx, streams.Reported, streams.BridgeConsumer); err != nil {
		return fmt.Errorf("reset consumer %s on %s: %w", streams.BridgeConsumer, streams.Reported, err)
	}
	expiry := c.pullExpiry()
	consuming, err := cons.Consume(func(msg jetstream.Msg) { c.enqueue(ctx, msg) },
		jetstream.PullMaxMessages(256), jetstream.PullExpiry(expiry), jetstream.PullHeartbeat(expiry/2),
		jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
			c.Log.Debug("reports interrupted", zap.Error(err))
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
	working.Go(func() { c.garbage.collect(ctx) })
	working.Go(func() { c.parts.collect(ctx) })
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

// enqueue puts a message into its site's inbox, in the order of the stream. It runs on a
// single goroutine for all sites. A message above the site's limits is deferred.
func (c *consumer) enqueue(ctx context.Context, msg jetstream.Msg) {
	meta, err := msg.Metadata()
	if err != nil {
		c.Log.Error("report without metadata", zap.String("subject", msg.Subject()), zap.Error(err))
		return
	}
	site, part := c.track(msg, meta)
	if part {
		c.window.ack(msg)
		return
	}
	d := newDelivery(msg, meta)
	d.from = msg
	if c.garbage.room(site) <= 0 || !c.window.acquire(site, d.seq) {
		c.Counters.Deferred.Add(1)
		c.deferReport(ctx, site, d)
		return
	}
	c.inbox.put(site, d)
	c.SiteQueue.Add(site)
}

// track returns the site of a message, and whether it is a part, which is read together with
// its report. It also records what the collectors of garbage need to know.
func (c *consumer) track(msg jetstream.Msg, meta *jetstream.MsgMetadata) (site string, part bool) {
	site, err := streams.ReportedSite(msg.Subject())
	if err != nil {
		site = "" // sites cannot publish such a subject
	} else if streams.IsPart(msg.Subject()) {
		_, _, err := streams.ParsePart(msg.Subject())
		part = err == nil
	}
	c.garbage.seen(site, meta.Sequence.Stream)
	if part {
		c.parts.partSeen(site)
	}
	return site, part
}

// processInboxes processes the messages in the inboxes until ctx ends.
func (c *consumer) processInboxes(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		<-ctx.Done()
		c.SiteQueue.ShutDown()
	})
	for range c.Workers {
		wg.Go(func() {
			for site, down := c.SiteQueue.Get(); !down; site, down = c.SiteQueue.Get() {
				if d := c.inbox.next(site); d != nil && ctx.Err() == nil {
					c.process(ctx, site, d)
					if c.inbox.done(site) {
						c.SiteQueue.Add(site)
					} else if c.deferrals.hasUnread(site) {
						c.wake()
					}
				}
				c.SiteQueue.Done(site)
			}
		})
	}
}

// process handles one message of a site.
func (c *consumer) process(ctx context.Context, site string, d *delivery) {
	if site == "" {
		c.reject(ctx, site, d, fmt.Errorf("%w: subject %q names no site", streams.ErrUndecodable, d.subject))
		return
	}
	if !c.Sites.SiteExists(site) {
		c.noteUnknownSite(site)
		c.deferReport(ctx, site, d)
		return
	}
	m, err := loadReport(ctx, c.Hub.Reported, d)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		err = c.checkMissingParts(ctx, d, err)
	}
	switch {
	case errors.Is(err, streams.ErrSuperseded):
		c.window.ack(d.from)
	case errors.Is(err, errIncomplete), errors.Is(err, streams.ErrUndecodable):
		c.reject(ctx, site, d, err)
	case err != nil:
		c.deferReport(ctx, site, d)
	case c.reports.room(site) <= 0:
		c.Counters.Deferred.Add(1)
		c.deferReport(ctx, site, d)
	default:
		c.accept(site, m, d)
	}
}

// errIncomplete marks a report whose missing parts are lost.
var errIncomplete = errors.New("incomplete")

// checkMissingParts decides about a report whose parts were not found. It returns
// errIncomplete if the report is old enough and the hub's leader does not have the parts
// either (a replica may have lagged), streams.ErrSuperseded if there is a newer report, and
// otherwise the error of the read.
func (c *consumer) checkMissingParts(ctx context.Context, d *delivery, err error) error {
	if c.now().Sub(d.stored) < maxPartsWait {
		return err
	}
	newest, known := c.Hub.LastMessage(ctx, streams.Reported, d.subject)
	if known != nil {
		return known
	}
	if newest == nil || newest.Seq != d.seq {
		return streams.ErrSuperseded
	}
	complete, known := hasParts(ctx, c.Hub, newest)
	switch {
	case known != nil:
		return known
	case complete:
		return err
	}
	return fmt.Errorf("%w: %w, %v after the report was stored", errIncomplete, err, maxPartsWait)
}

func (c *consumer) accept(site string, m streams.Message, d *delivery) {
	if m.Ref.Group == "" && (m.Ref.Resource == "nodes" || m.Ref.Resource == "pods") {
		nowAlive, connected := c.Liveness.Report(site, m.Ref.Node, d.stored, time.Now())
		if connected {
			c.Log.Info("site connected", zap.String("site", site))
			c.OnSiteConnected(site)
		}
		if nowAlive {
			c.nodesAlive(site, []string{m.Ref.Node})
		}
	}
	k := Key{site, m.Ref}
	for _, stale := range c.reports.put(k, &report{seq: d.seq, msg: m, stored: d.stored, pending: true, delivered: d.from, receivedAt: c.now()}) {
		c.window.ack(stale)
	}
	c.Queue.Add(k)
}

// reject moves an unreadable message to QUARANTINE, acknowledges it, and schedules its
// removal.
func (c *consumer) reject(ctx context.Context, site string, d *delivery, reason error) {
	if err := streams.QuarantineMessage(ctx, c.Hub.JS, streams.Quarantine, d.subject, d.header, d.data, reason); err != nil {
		c.Log.Debug("cannot quarantine report, it will be read again", zap.String("subject", d.subject), zap.Error(err))
		c.deferReport(ctx, site, d)
		return
	}
	c.Log.Warn("report quarantined", zap.String("subject", d.subject), zap.Uint64("seq", d.seq), zap.Error(reason))
	why := reasonUndecodable
	if errors.Is(reason, errIncomplete) {
		why = reasonIncomplete
	}
	c.countQuarantined(site, why)
	c.window.ack(d.from)
	c.garbage.add(site, obsolete{seq: d.seq})
}

// ackOverdue acknowledges the reports that have waited longer than maxUnackedTime, after
// recording in the bridge's bucket that they must be read again after a restart.
func (c *consumer) ackOverdue(ctx context.Context) {
	for _, h := range c.reports.unackedBefore(c.now().Add(-maxUnackedTime)) {
		if err := c.deferrals.record(ctx, h.key.Site, h.seq, false); err != nil {
			c.Log.Debug("report not deferred, it stays unacknowledged", zap.String("site", h.key.Site), zap.Error(err))
			return
		}
		c.window.ack(c.reports.releaseMsg(h.key, h.seq))
	}
}
