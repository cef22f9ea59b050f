package leaf

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/streams"
)

// presence sends the site's heartbeat while the link is up. It is not stored: a
// heartbeat that is lost is worth nothing later.
type presence struct {
	site, boot, version string
	nc                  *nats.Conn
	js                  jetstream.JetStream
	link                *link
	node                nodeState
	quarantined         []counter
	log                 *zap.Logger
}

// nodeState is what the node API knows of its node.
type nodeState interface {
	Applied() uint64
	Leases() []streams.NodePresence
}

// counter counts the messages that a part of the leaf could not read.
type counter interface{ Quarantined() uint64 }

// Run sends at each change of the link and every streams.PresenceInterval.
func (p *presence) Run(ctx context.Context) error {
	tick := time.NewTicker(streams.PresenceInterval)
	defer tick.Stop()
	for {
		up, since, changed := p.link.State()
		if up {
			if err := p.send(ctx, since); err != nil {
				p.log.Warn("heartbeat not sent", zap.Error(err))
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-tick.C:
		}
	}
}

func (p *presence) send(ctx context.Context, linkSince time.Time) error {
	msg := streams.Presence{
		Site: p.site, Time: time.Now(), Version: p.version, Boot: p.boot, LinkSince: linkSince,
		Nodes: p.node.Leases(), Applied: p.node.Applied(),
	}
	for _, c := range p.quarantined {
		msg.Quarantined += c.Quarantined()
	}
	var err error
	if msg.ReportedPending, err = p.pending(ctx, streams.SiteReported); err != nil {
		return err
	}
	if msg.TelemetryPending, err = p.pending(ctx, streams.SiteTelemetry); err != nil {
		return err
	}
	data, err := json.Marshal(msg)
	if err != nil {
		return fmt.Errorf("encode heartbeat: %w", err)
	}
	return p.nc.Publish(streams.PresenceSubject(p.site), data)
}

// pending is how many messages of a stream wait for the hub's acknowledgement: all of
// them, before the forwarder has run for the first time.
func (p *presence) pending(ctx context.Context, stream string) (uint64, error) {
	s, err := p.js.Stream(ctx, stream)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", stream, err)
	}
	c, err := s.Consumer(ctx, streams.ForwardConsumer)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return s.CachedInfo().State.Msgs, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read consumer %s of %s: %w", streams.ForwardConsumer, stream, err)
	}
	i := c.CachedInfo()
	return i.NumPending + uint64(i.NumAckPending), nil
}
