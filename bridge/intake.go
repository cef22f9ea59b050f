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

// reportedAckWait is after how long the hub delivers an unacknowledged report again.
const reportedAckWait = 30 * time.Second

// intake reads REPORTED into the reports and hands them to the write-back.
type intake struct {
	hub      *hub
	reports  *reports
	publish  *publisher
	presence *presence
	log      *zap.Logger
	count    *counters
	queue    workqueue.TypedRateLimitingInterface[reportKey]
	// expiry is how long one request for reports stands: a bridge that stands still gets
	// none any more when another one leads.
	expiry time.Duration
	// woke and changed are called when a report shows that a node is alive, or a site
	// connected, again.
	woke    func(site string, nodes []string)
	changed func(site string)

	// present says whether the object that a report is about is in the API.
	present func(k reportKey) bool

	// putting is held by who changes what the bucket says.
	putting sync.Mutex

	mu     sync.Mutex
	last   map[string]uint64
	spent  map[string][]spent
	strays map[string]bool
	putOff map[string]*putOff
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
	var trimming sync.WaitGroup
	defer trimming.Wait()
	trimming.Go(func() { i.trim(ctx) })
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-consuming.Closed():
			return fmt.Errorf("consumer %s on %s ended", streams.BridgeConsumer, streams.Reported)
		case <-tick.C:
			i.resume(ctx)
		}
	}
}

// take reads one message, in the order of the stream.
func (i *intake) take(ctx context.Context, msg jetstream.Msg) {
	meta, err := msg.Metadata()
	if err != nil {
		i.log.Error("report without metadata", zap.String("subject", msg.Subject()), zap.Error(err))
		return
	}
	if streams.IsPart(msg.Subject()) {
		i.ack(msg)
		return
	}
	if i.overloaded() {
		i.later(msg, meta)
		return
	}
	site, m, err := loadReport(ctx, i.hub.reported, msg)
	if site != "" {
		i.note(site, meta.Sequence.Stream)
	}
	switch {
	case errors.Is(err, streams.ErrSuperseded):
		i.ack(msg)
	case errors.Is(err, streams.ErrUndecodable):
		i.reject(ctx, site, msg, meta, err)
	case err != nil:
		i.later(msg, meta)
	case !i.publish.siteExists(site):
		i.stray(site)
		i.leave(ctx, site, msg, meta)
	case i.reports.room(site) <= 0:
		i.count.deferred.Add(1)
		i.leave(ctx, site, msg, meta)
	default:
		i.accept(site, m, msg, meta)
	}
}

func (i *intake) accept(site string, m streams.Message, msg jetstream.Msg, meta *jetstream.MsgMetadata) {
	if m.Ref.Group == "" && (m.Ref.Resource == "nodes" || m.Ref.Resource == "pods") {
		woken, connected := i.presence.report(site, m.Ref.Node, meta.Timestamp, time.Now())
		if connected {
			i.log.Info("site connected", zap.String("site", site))
			i.changed(site)
		}
		if woken {
			i.woke(site, []string{m.Ref.Node})
		}
	}
	k := reportKey{site, m.Ref}
	for _, stale := range i.reports.put(k, &report{seq: meta.Sequence.Stream, msg: m, stored: meta.Timestamp, fresh: true, from: msg}) {
		i.ack(stale)
	}
	i.queue.Add(k)
}

// reject keeps an unreadable message where a person finds it, then acknowledges it.
func (i *intake) reject(ctx context.Context, site string, msg jetstream.Msg, meta *jetstream.MsgMetadata, reason error) {
	if err := streams.SetAside(ctx, i.hub.js, streams.Quarantine, msg.Subject(), msg.Headers(), msg.Data(), reason); err != nil {
		i.later(msg, meta)
		return
	}
	i.log.Warn("report quarantined", zap.String("subject", msg.Subject()), zap.Uint64("seq", meta.Sequence.Stream), zap.Error(reason))
	i.count.quarantined.Add(1)
	i.ack(msg)
	if site != "" {
		i.discard(site, spent{seq: meta.Sequence.Stream})
	}
}

// later has a message delivered again after a while.
func (i *intake) later(msg jetstream.Msg, meta *jetstream.MsgMetadata) {
	if err := msg.NakWithDelay(backoff(int(meta.NumDelivered))); err != nil {
		i.log.Debug("report not handed back, its ack wait decides", zap.String("subject", msg.Subject()), zap.Error(err))
	}
}

// ack acknowledges; if that is lost the message comes again and does no harm.
func (i *intake) ack(msg jetstream.Msg) {
	if err := msg.Ack(); err != nil && !errors.Is(err, jetstream.ErrMsgAlreadyAckd) && !errors.Is(err, nats.ErrConnectionClosed) {
		i.log.Debug("report not acknowledged, it comes again", zap.String("subject", msg.Subject()), zap.Error(err))
	}
}
