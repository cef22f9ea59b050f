package leaf

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/leaf/link"
	"github.com/petiole-io/petiole/streams"
)

// presence sends the heartbeat of the site while the link is up. Heartbeats are not stored: an
// old one is worth nothing.
type presence struct {
	site, boot, version string
	nc                  *nats.Conn
	link                *link.Link
	node                nodeState
	status              *status
	log                 *zap.Logger
}

// nodeState is what the node API knows of its node.
type nodeState interface {
	Applied() uint64
	AppliedSource() uint64
	Leases() []streams.NodePresence
}

// Run sends at each change of the link and every streams.PresenceInterval.
func (p *presence) Run(ctx context.Context) error {
	tick := time.NewTicker(streams.PresenceInterval)
	defer tick.Stop()
	for {
		up, since, changed := p.link.State()
		if up {
			if err := p.send(ctx, since); err != nil && ctx.Err() == nil {
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
	// A store that is being restarted must not keep the site from saying that it is there.
	asking, cancel := context.WithTimeout(ctx, statusWait)
	defer cancel()
	data, err := json.Marshal(p.heartbeat(p.status.read(asking), linkSince))
	if err != nil {
		return fmt.Errorf("encode heartbeat: %w", err)
	}
	return p.nc.Publish(streams.PresenceSubject(p.site), data)
}

func (p *presence) heartbeat(s snapshot, linkSince time.Time) streams.Presence {
	return streams.Presence{
		Site: p.site, Time: time.Now(), Version: p.version, Boot: p.boot, LinkSince: linkSince,
		Nodes: p.node.Leases(), Applied: p.node.Applied(), AppliedHub: p.node.AppliedSource(), Unapplied: s.unapplied,
		Quarantined: s.quarantined, Dropped: s.dropped, Degraded: s.degraded, Details: s.details,
		ReportedPending: s.pending[streams.SiteReported], TelemetryPending: s.pending[streams.SiteTelemetry],
	}
}
