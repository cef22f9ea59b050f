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
	// woke and changed are called when a report shows that a node is alive, or a site
	// connected, again.
	woke    func(site string, nodes []string)
	changed func(site string)

	mu     sync.Mutex
	last   map[string]uint64
	spent  map[string][]uint64
	strays map[string]bool
}

// recover reads what REPORTED holds: the memory of the write-back after a restart. With
// fresh it takes in all of it as if it had just arrived.
func (i *intake) recover(ctx context.Context, filter string, fresh bool) error {
	return readAll(ctx, i.hub.js, i.hub.reported, filter, false, func(msg jetstream.Msg) error {
		meta, err := msg.Metadata()
		if err != nil {
			return err
		}
		site, m, err := streams.Load(ctx, i.hub.reported, msg.Subject(), msg.Headers(), msg.Data())
		if site != "" {
			i.note(site, meta.Sequence.Stream)
		}
		switch {
		case streams.IsPart(msg.Subject()), errors.Is(err, streams.ErrUndecodable), errors.Is(err, streams.ErrSuperseded):
			return nil // the durable consumer has dealt with it, or will
		case err != nil:
			return err
		case !i.publish.siteExists(site):
			i.stray(site)
			return nil
		case !fresh && !keeps(m):
			return nil
		}
		k := reportKey{site, m.Ref}
		i.reports.put(k, &report{seq: meta.Sequence.Stream, msg: m, stored: meta.Timestamp, fresh: fresh})
		if fresh {
			i.queue.Add(k)
		}
		return nil
	})
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
	consuming, err := cons.Consume(func(msg jetstream.Msg) { i.take(ctx, msg) },
		jetstream.PullMaxMessages(256), jetstream.PullHeartbeat(5*time.Second),
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
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-consuming.Closed():
			return fmt.Errorf("consumer %s on %s ended", streams.BridgeConsumer, streams.Reported)
		case <-tick.C:
			i.trim(ctx)
			i.welcome(ctx)
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
	site, m, err := streams.Load(ctx, i.hub.reported, msg.Subject(), msg.Headers(), msg.Data())
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
		i.ack(msg)
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
		i.discard(site, meta.Sequence.Stream)
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

// stray notes a report of a site without a Site object. It stays in the stream, and is
// read when the Site is created.
func (i *intake) stray(site string) {
	i.count.strays.Add(1)
	i.mu.Lock()
	first := !i.strays[site]
	i.strays[site] = true
	i.mu.Unlock()
	if first {
		i.log.Warn("reports of a site without a Site object are not written back", zap.String("site", site))
	}
}

// welcome reads the reports of sites that have a Site object now and had none when the
// reports came.
func (i *intake) welcome(ctx context.Context) {
	var sites []string
	i.mu.Lock()
	for s := range i.strays {
		sites = append(sites, s)
	}
	i.mu.Unlock()
	for _, s := range sites {
		if !i.publish.siteExists(s) {
			continue
		}
		if err := i.recover(ctx, streams.ReportedFilter(s), true); err != nil {
			i.log.Warn("reports of a new site not read, trying again", zap.String("site", s), zap.Error(err))
			continue
		}
		i.mu.Lock()
		delete(i.strays, s)
		i.mu.Unlock()
	}
}

// note keeps the highest sequence of each site. Its message is never removed: the
// site's forwarder expects to find it.
func (i *intake) note(site string, seq uint64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.last[site] = max(i.last[site], seq)
}

// discard marks a message that nobody needs any more, such as an accepted event.
func (i *intake) discard(site string, seq uint64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.spent[site] = append(i.spent[site], seq)
}

// trim removes the discarded messages from REPORTED, except each site's last.
func (i *intake) trim(ctx context.Context) {
	var remove []uint64
	i.mu.Lock()
	for site, seqs := range i.spent {
		var keep []uint64
		for _, seq := range seqs {
			if seq < i.last[site] {
				remove = append(remove, seq)
			} else {
				keep = append(keep, seq)
			}
		}
		if i.spent[site] = keep; len(keep) == 0 {
			delete(i.spent, site)
		}
	}
	i.mu.Unlock()
	for _, seq := range remove {
		err := i.hub.reported.DeleteMsg(ctx, seq)
		if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) && !errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
			i.log.Debug("report not trimmed, it stays until the next of its object", zap.Uint64("seq", seq), zap.Error(err))
		}
	}
}
