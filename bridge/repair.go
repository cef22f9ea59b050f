package bridge

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/petiole-io/petiole/streams"
)

// repairParts find out what differs between the API server, the hub and the sites, and
// have it repaired.
type repairParts struct {
	resync   *resyncs
	foreign  *foreign
	storage  *storage
	requests *requests
}

// assembleRepair makes the parts that find out what differs, and repair it.
func (b *Bridge) assembleRepair(p *parts, h *hub, c *clients, outageOf func(string) *outage) {
	r := newResyncs()
	r.hub, r.watch, r.publish, r.presence, r.repairs = h, p.watch, p.publish, p.presence, p.repairs
	r.fence, r.log, r.count, r.outage = b.fence, b.log, &b.count, outageOf("resync sites")
	p.resync = r
	p.foreign = &foreign{hub: h, publish: p.publish, fence: b.fence, log: b.log, count: &b.count, outage: outageOf("search the desired stream")}
	p.storage = &storage{
		kv: h.record, clients: c, fence: b.fence, log: b.log, count: &b.count, outage: outageOf("epoch of the API server's storage"),
		identity: b.cfg.LeaderElection.Identity, namespace: b.cfg.LeaderElection.Namespace, suspects: make(chan suspect, 1), lookout: p.watch.lookout,
	}
	p.publish.suspect = p.storage.suspect
	m := &manifests{publish: p.publish, repairs: p.repairs, resync: r, log: b.log, count: &b.count, now: time.Now, identity: h.identity}
	t := &tokens{clients: c, watch: p.watch, count: &b.count}
	p.requests = &requests{log: b.log, count: &b.count, handlers: map[string]*handler{
		streams.RequestToken:     t.handler(b.cfg.Limits.Workers),
		streams.RequestInventory: m.handler(),
		streams.RequestPosition:  (&positions{js: h.js}).handler(),
	}}
}

// start runs the parts in g until ctx ends.
func (r *repairParts) start(ctx context.Context, g *errgroup.Group, nc *nats.Conn) {
	g.Go(func() error { return r.requests.run(ctx, nc) })
	g.Go(func() error { return r.resync.run(ctx) })
	g.Go(func() error { return r.foreign.run(ctx) })
}
