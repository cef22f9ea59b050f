package leaf

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/leaf/link"
	"github.com/petiole-io/petiole/leaf/transfer"
	"github.com/petiole-io/petiole/streams"
)

// presence sends the heartbeat of the site while the link is up. Heartbeats are not stored: an
// old one is worth nothing.
type presence struct {
	site, boot, version string
	interval            time.Duration
	nc                  *nats.Conn
	meter               *transfer.Meter
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

// Run sends at each change of the link and every interval, and when the bridge asks for it.
func (p *presence) Run(ctx context.Context) (err error) {
	control := make(chan *nats.Msg, 8)
	sub, err := p.nc.ChanSubscribe(streams.SyncSubject(p.site), control)
	if err != nil {
		return fmt.Errorf("subscribe to %s: %w", streams.SyncSubject(p.site), err)
	}
	defer func() {
		if uerr := sub.Unsubscribe(); uerr != nil && !p.nc.IsClosed() && err == nil {
			err = fmt.Errorf("unsubscribe: %w", uerr)
		}
	}()
	requested := true
	tick := time.NewTicker(p.interval)
	defer tick.Stop()
	for {
		up, since, changed := p.link.State()
		if up && requested {
			if err := p.send(ctx, since); err != nil && ctx.Err() == nil {
				p.log.Warn("heartbeat not sent", zap.Error(err))
			}
		}
		requested = true
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-tick.C:
		case m := <-control:
			requested = m.Header.Get(streams.HeaderControl) == streams.ControlPresence
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
	msg := &nats.Msg{Subject: streams.PresenceSubject(p.site), Data: data}
	p.meter.Up(transfer.KindHeartbeats, msg)
	return p.nc.PublishMsg(msg)
}

func (p *presence) heartbeat(s snapshot, linkSince time.Time) streams.Presence {
	// The wall clock may have been set since a time was taken: all are by the clock as it is now.
	now := time.Now()
	ago := func(t time.Time) time.Time { return heartbeatTime(now.Add(-now.Sub(t))) }
	nodes := p.node.Leases()
	for i := range nodes {
		nodes[i].Renewed = ago(nodes[i].Renewed)
	}
	return streams.Presence{
		Interval: int64(p.interval / time.Second),
		Site:     p.site, Time: heartbeatTime(now), Version: p.version, Boot: p.boot, LinkSince: ago(linkSince),
		Nodes: nodes, Applied: p.node.Applied(), AppliedHub: p.node.AppliedSource(), Unapplied: s.unapplied,
		Quarantined: s.quarantined, Dropped: s.dropped, Degraded: s.degraded, Details: s.details,
		ReportedPending: s.pending[streams.SiteReported], TelemetryPending: s.pending[streams.SiteTelemetry],
	}
}

// heartbeatTime returns a time as a heartbeat has it: what nobody needs of it costs bytes 8,640 times a day.
func heartbeatTime(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }
