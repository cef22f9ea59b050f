package bridge

import (
	"context"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/petiole-io/petiole/bridge/antientropy"
	"github.com/petiole-io/petiole/bridge/hub"
	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/bridge/requests"
	"github.com/petiole-io/petiole/bridge/storage"
	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/inventory"
)

// consistencyParts are the components that detect differences between the API server, the hub
// and the sites, and repair them.
type consistencyParts struct {
	resync   *antientropy.Resyncer
	requests *requests.Server
}

// newConsistencyParts creates the components that detect and repair differences.
func (b *Bridge) newConsistencyParts(p *components, h *hub.Hub, c *kube.Clients, outageOf func(string) *outage) {
	p.resync = antientropy.NewResyncer(antientropy.Config{
		Hub: h, Cache: p.cache, Sites: p.desired, Liveness: p.liveness, States: p.syncStates,
		Fence: b.fence, Log: b.log, Report: outageOf("resync sites").report,
	})
	answers := &antientropy.Answerer{Desired: p.desired, States: p.syncStates, Resyncer: p.resync, Counters: &b.count.antientropy, Log: b.log}
	p.requests = requests.New(map[string]requests.Handler{
		streams.RequestToken:    requests.Tokens(c, p.cache, b.cfg.Limits.Workers, func() { b.count.tokens.Add(1) }),
		inventory.Request:       answers.Handler(),
		streams.RequestPosition: requests.Positions(h),
	}, func() { b.count.refused.Add(1) }, b.log)
}

// newStorageMonitor creates the monitor of the API server's storage.
func (b *Bridge) newStorageMonitor(h *hub.Hub, c *kube.Clients) *storage.Monitor {
	return storage.NewMonitor(storage.Config{
		Bucket: h.Bucket, Clients: c, Fence: b.fence, Log: b.log, Report: b.metrics.newOutage(b.log, "epoch of the API server's storage").report, OnNewEpoch: func() { b.count.epochs.Add(1) },
		Identity: b.cfg.LeaderElection.Identity, Namespace: b.cfg.LeaderElection.Namespace,
	})
}

// start runs the components in g until ctx ends.
func (r *consistencyParts) start(ctx context.Context, g *errgroup.Group, nc *nats.Conn) {
	g.Go(func() error { return r.requests.Run(ctx, nc) })
	g.Go(func() error { r.resync.Run(ctx); return nil })
}
