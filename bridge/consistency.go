package bridge

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/petiole-io/petiole/bridge/hub"
	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/bridge/storage"
	"github.com/petiole-io/petiole/streams"
)

// consistencyParts are the components that detect differences between the API server, the hub
// and the sites, and repair them.
type consistencyParts struct {
	resync         *resyncer
	externalWrites *externalWrites
	storage        *storage.Monitor
	requests       *requests
}

// newConsistencyParts creates the components that detect and repair differences.
func (b *Bridge) newConsistencyParts(p *components, h *hub.Hub, c *kube.Clients, outageOf func(string) *outage) {
	r := newResyncer()
	r.hub, r.cache, r.publish, r.liveness, r.syncStates = h, p.cache, p.publish, p.liveness, p.syncStates
	r.fence, r.log, r.count, r.outage = b.fence, b.log, &b.count, outageOf("resync sites")
	p.resync = r
	p.externalWrites = &externalWrites{hub: h, publish: p.publish, fence: b.fence, log: b.log, count: &b.count, outage: outageOf("search the desired stream")}
	m := &antiEntropy{publish: p.publish, syncStates: p.syncStates, resync: r, log: b.log, count: &b.count, now: time.Now, identity: h.Identity}
	t := &tokenIssuer{clients: c, cache: p.cache, count: &b.count}
	p.requests = &requests{log: b.log, count: &b.count, handlers: map[string]*handler{
		streams.RequestToken:     t.handler(b.cfg.Limits.Workers),
		streams.RequestInventory: m.handler(),
		streams.RequestPosition:  (&positionReader{hub: h}).handler(),
	}}
}

// newStorageMonitor creates the monitor of the API server's storage.
func (b *Bridge) newStorageMonitor(h *hub.Hub, c *kube.Clients, out *outage) *storage.Monitor {
	return storage.NewMonitor(storage.Config{
		Bucket: h.Bucket, Clients: c, Fence: b.fence, Log: b.log, Report: out.report, OnNewEpoch: func() { b.count.epochs.Add(1) },
		Identity: b.cfg.LeaderElection.Identity, Namespace: b.cfg.LeaderElection.Namespace,
	})
}

// start runs the components in g until ctx ends.
func (r *consistencyParts) start(ctx context.Context, g *errgroup.Group, nc *nats.Conn) {
	g.Go(func() error { return r.requests.run(ctx, nc) })
	g.Go(func() error { return r.resync.run(ctx) })
	g.Go(func() error { return r.externalWrites.run(ctx) })
}
