package bridge

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/petiole-io/petiole/bridge/antientropy"
	"github.com/petiole-io/petiole/bridge/desired"
	"github.com/petiole-io/petiole/bridge/hub"
	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/bridge/lease"
	"github.com/petiole-io/petiole/bridge/liveness"
	"github.com/petiole-io/petiole/bridge/reported"
	"github.com/petiole-io/petiole/bridge/site"
	"github.com/petiole-io/petiole/bridge/storage"
	"github.com/petiole-io/petiole/bridge/writeback"
	"github.com/petiole-io/petiole/internal/metrics"
	"github.com/petiole-io/petiole/streams"
)

// Bridge connects one API server to one hub. Create it with New.
type Bridge struct {
	cfg     Config
	log     *zap.Logger
	count   counters
	metrics *instruments
	fence   *lease.Fence
}

// New returns a bridge that has not started. It does not validate the configuration: see
// Config.Validate.
func New(cfg Config, log *zap.Logger) *Bridge {
	b := &Bridge{cfg: cfg, log: log, fence: lease.NewFence(time.Now)}
	b.metrics = newInstruments(&b.count)
	return b
}

// Counters returns what the bridge has done since New. It is safe for concurrent use.
func (b *Bridge) Counters() Counters { return b.count.snapshot() }

// Run competes for leadership and works while it is the leader. It returns nil when ctx ends,
// after everything that it started has stopped. While the API server or the hub is
// unavailable, it retries. An error means that the configuration cannot work.
func (b *Bridge) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return metrics.Serve(ctx, b.cfg.Metrics.Listen, b.metrics.registry, nil, b.ready) })
	g.Go(func() error { return b.compete(ctx) })
	return g.Wait()
}

// compete competes for leadership until ctx ends.
func (b *Bridge) compete(ctx context.Context) error {
	rc, err := kube.RESTConfig(b.cfg.Kubernetes.Kubeconfig, b.cfg.Kubernetes.QPS, b.cfg.Kubernetes.Burst)
	if err != nil {
		return err
	}
	rc.Wrap(b.metrics.requests.transport)
	clients, err := kube.NewClients(rc, b.cfg.Kubernetes.Impersonation, b.fence.Transport)
	if err != nil {
		return err
	}
	defer clients.Close()
	nc, err := hub.Dial(b.cfg.NATS.hub(b.cfg.LeaderElection.Identity), b.log)
	if err != nil {
		return err
	}
	defer hub.Close(nc)
	b.metrics.health.hub.Store(nc)
	if err := b.awaitAPI(ctx, clients); err != nil {
		return nil // ctx has ended
	}
	log := b.log.With(zap.String("identity", b.cfg.LeaderElection.Identity))
	for ctx.Err() == nil {
		err := lease.Run(ctx, b.cfg.LeaderElection.lease(), clients.Election, b.fence, log, func(ctx context.Context, transitions uint64) {
			b.lead(ctx, clients, nc, transitions)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// awaitAPI blocks until the API server answers. It returns an error only when ctx ends.
func (b *Bridge) awaitAPI(ctx context.Context, c *kube.Clients) error {
	out := b.metrics.newOutage(b.log, "API server")
	for n := 0; ; n++ {
		err := c.Own.CoreV1().RESTClient().Get().AbsPath("/version").Do(ctx).Error()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		out.report(err)
		if err == nil {
			return nil
		}
		if !sleep(ctx, backoff(n)) {
			return ctx.Err()
		}
	}
}

// lead works until ctx ends or another bridge becomes leader. When a component fails, for
// example because the hub's streams were replaced, lead starts all of them again from the
// present content of the streams.
func (b *Bridge) lead(ctx context.Context, c *kube.Clients, nc *nats.Conn, transitions uint64) {
	defer b.metrics.startLeading()()
	out := b.metrics.newOutage(b.log, "hub and API server")
	for n := 0; ctx.Err() == nil; n++ {
		started := time.Now()
		err := b.runComponents(ctx, c, nc, transitions, func() {
			out.report(nil)
			b.metrics.acting(b.fence.Term())
		})
		b.metrics.stopped()
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, lease.ErrDeposed) || errors.Is(err, lease.ErrNotLeading) {
			b.log.Warn("leadership lost", zap.Error(err))
			return
		}
		out.report(err)
		if errors.Is(err, hub.ErrReplaced) || errors.Is(err, storage.ErrMovedBack) || errors.Is(err, storage.ErrRecordLost) || time.Since(started) > time.Minute {
			n = 0
		}
		if !sleep(ctx, backoff(n)) {
			return
		}
	}
}

// runComponents runs all components until ctx ends or one of them fails. It calls ready once
// they run.
func (b *Bridge) runComponents(ctx context.Context, c *kube.Clients, nc *nats.Conn, transitions uint64, ready func()) error {
	h, err := hub.Open(ctx, nc, streams.HubLimits{
		MaxSites: b.cfg.Limits.MaxSites, TelemetryBytes: b.cfg.Limits.TelemetryBytes, Replicas: b.cfg.NATS.Replicas,
	})
	if err != nil {
		return err
	}
	stored, err := desired.Read(ctx, h)
	if err != nil {
		return err
	}
	monitor := b.newStorageMonitor(h, c)
	known, highestTerm := stored.Highest()
	epoch, renewed, err := monitor.Begin(ctx, transitions, known, highestTerm)
	if err != nil {
		return err
	}
	p, err := b.newComponents(h, c, monitor, epoch)
	if err != nil {
		return err
	}
	defer p.close()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return b.fence.Watch(ctx) })
	g.Go(func() error { return monitor.Run(ctx) })
	synced := make(chan struct{})
	g.Go(func() error {
		p.cache.Run(ctx, func() { close(synced) })
		return nil
	})
	g.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case <-synced:
		}
		p.desired.Load(stored)
		if err := p.reports.Recover(ctx); err != nil {
			return err
		}
		p.restoreSites(renewed)
		ready()
		p.start(ctx, g, nc, b.cfg.Limits.Workers)
		return nil
	})
	return g.Wait()
}

// nodeReturnGrace is the time for which a deleted node's site keeps the node and its pods: a
// node that is alive registers again well before.
const nodeReturnGrace = 15 * time.Second

// components are the parts of a leading bridge.
type components struct {
	log         *zap.Logger
	cache       *kube.Cache
	desired     *desired.Reconciler
	liveness    *liveness.Tracker
	heartbeats  *liveness.Heartbeats
	sites       *site.Controller
	reports     *reported.Reconciler
	clients     *kube.Clients
	tolerations *liveness.Tolerations
	syncStates  *antientropy.States
	backlogs    *site.Backlogs
	consistencyParts
}

// newComponents creates the components of a bridge that leads in an epoch, and connects them.
// It starts nothing.
func (b *Bridge) newComponents(h *hub.Hub, c *kube.Clients, monitor *storage.Monitor, epoch string) (*components, error) {
	outageOf := func(what string) *outage { return b.metrics.newOutage(b.log, what) }
	p := &components{log: b.log, clients: c, liveness: liveness.NewTracker()}
	p.syncStates = antientropy.NewStates(b.metrics.syncHooks(&b.count, func() { p.sites.Trigger() }))
	deleted := writeback.NewDeletedNodes()
	cache, err := kube.NewCache(c.Dynamic, kube.Handlers{
		Changed: p.objectChanged, Deleted: deleted.Add,
		Requests: kube.Requests{Answered: monitor.Answered, Report: outageOf("watch the API server").reportPart},
	})
	if err != nil {
		return nil, err
	}
	p.cache = cache
	p.desired = desired.New(desired.Config{
		Hub: h, Objects: cache, Storage: monitor, Fence: b.fence, Epoch: epoch, Counters: &b.count.desired, Log: b.log,
		Changed: newQueue[kube.Key](b.metrics, "objects", publishRetry), Sites: newQueue[string](b.metrics, "sites", publishRetry),
		Report: outageOf("search the desired stream").report,
	})
	p.reports = reported.New(reported.Config{
		Hub: h, Sites: p.desired, Liveness: p.liveness, Fence: b.fence, Counters: &b.count.reported, Log: b.log,
		Writer: writeback.New(writeback.Config{
			Clients: c, Cache: cache, Sites: p.desired, Liveness: p.liveness, Deleted: deleted, Log: b.log,
		}),
		Queue:     newQueue[reported.Key](b.metrics, "writeback", writeRetry),
		SiteQueue: newQueue[string](b.metrics, "reports", writeRetry),
		Workers:   b.cfg.Limits.Workers, Lease: b.cfg.LeaderElection.lease().Duration(), Report: outageOf("write back to the API server").report,
		OnQuarantined: b.metrics.sites.CountQuarantined, OnSiteConnected: p.siteChanged,
	})
	p.tolerations = liveness.NewTolerations(liveness.TolerationsConfig{
		Pods: c.Own.CoreV1(), Cache: cache, PodsOn: p.desired.PodsOn, Log: b.log, Report: outageOf("set tolerations").report,
		Queue: newQueue[kube.Key](b.metrics, "autonomy", writeRetry),
	})
	duplicates := liveness.NewDuplicateDetector()
	p.heartbeats = liveness.NewHeartbeats(liveness.Config{
		Tracker: p.liveness, Duplicates: duplicates, Leases: liveness.NewNodeLeases(c.Leases, cache), SiteExists: p.desired.SiteExists,
		OnNodesAlive: p.reports.NodesAlive, OnSiteChanged: p.siteChanged, Queue: newQueue[string](b.metrics, "leases", writeRetry),
		Log: b.log, Report: outageOf("renew node leases").report,
		OnRefused: func() { b.count.refused.Add(1) }, OnConflict: func() { b.count.reported.Conflicts.Add(1) },
	})
	p.sites = site.New(site.Config{
		Desired: h.Desired, Clients: c, Cache: cache, Sites: p.desired, Consumers: desired.NewConsumers(p.desired), Liveness: p.liveness,
		Duplicates: duplicates, States: p.syncStates, Metrics: b.metrics.sites, Epoch: epoch, Term: b.fence.Term(),
		Identity: b.cfg.LeaderElection.Identity, Log: b.log, Report: outageOf("positions of the sites").report,
		OnRound: func() { b.count.siteRounds.Add(1) },
	})
	answering := outageOf("answer backlogs")
	p.backlogs = site.NewBacklogs(site.BacklogsConfig{
		Hub: h, Client: c.Dynamic, SiteExists: p.desired.SiteExists, Queue: newQueue[string](b.metrics, "backlogs", writeRetry),
		Report: answering.report, ReportWatch: answering.reportPart,
	})
	b.newConsistencyParts(p, h, c, outageOf)
	return p, nil
}

// objectChanged passes a changed object to the components that need it. It runs on the
// informers' goroutines and only enqueues.
func (c *components) objectChanged(k kube.Key) {
	delay := time.Duration(0)
	if c.awaitsReregistration(k) {
		delay = nodeReturnGrace
	}
	c.desired.Changed(k, delay)
	c.tolerations.Changed(k)
	c.reports.ObjectChanged(k)
	switch {
	case k.Group == kube.SiteGroup:
		c.sites.Trigger()
		c.resync.AnnotationChanged(k.Name)
	case k.Group == "" && k.Resource == "nodes":
		c.sites.Trigger()
		c.reports.ObjectChanged(kube.CSINodeKey(k.Name))
		if c.cache.Get(k) == nil {
			c.clients.Forget(k.Name)
			c.heartbeats.Forget(k.Name)
		}
	case k.Group == kube.DeviceGroup && k.Resource == "devices":
		// A report may have arrived before its device: write it now.
		c.reports.ObjectChanged(kube.Key{Group: kube.DeviceGroup, Resource: "devicestatuses", Namespace: k.Namespace, Name: k.Name})
	}
}

// awaitsReregistration reports whether an object is a deleted node that is still alive and is
// about to register again. Until then its site keeps the node and its pods.
func (c *components) awaitsReregistration(k kube.Key) bool {
	if k.Group != "" || k.Resource != "nodes" || c.cache.Get(k) != nil {
		return false
	}
	site := c.desired.SiteOf(k.Name)
	if site == "" || !c.desired.SiteExists(site) {
		return false
	}
	alive, _ := c.liveness.Alive(site, k.Name, time.Now())
	return alive && c.reports.HasReport(k)
}

// siteChanged is called when a site connects or disconnects. It updates the site's nodes, its
// devices and its Site object.
func (c *components) siteChanged(site string) {
	c.reports.SiteChanged(site)
	c.sites.Trigger()
}

// restoreSites takes over the state of the sites from their Site objects. In a new epoch each
// site must compare its inventory once it has received everything again.
func (c *components) restoreSites(renewed bool) {
	now := time.Now()
	for name := range c.desired.NodesBySite() {
		if renewed {
			c.resync.CompareWhenCaughtUp(name)
		}
		if o := c.cache.Get(kube.Key{Group: kube.SiteGroup, Resource: "sites", Name: name}); o != nil {
			connected, since := site.Connection(o)
			c.liveness.Restore(name, connected, since, now)
		}
	}
}

// close shuts down the queues, including those of components that were never started.
func (c *components) close() {
	c.desired.Close()
	c.reports.Close()
	c.tolerations.Close()
	c.heartbeats.Close()
	c.backlogs.Close()
}

// start runs the components in g until ctx ends.
func (c *components) start(ctx context.Context, g *errgroup.Group, nc *nats.Conn, workers int) {
	g.Go(func() error { return c.desired.Run(ctx, workers) })
	g.Go(func() error { c.tolerations.Run(ctx); return nil })
	g.Go(func() error { return c.heartbeats.Run(ctx, nc, workers) })
	g.Go(func() error { return c.sites.Run(ctx) })
	g.Go(func() error { return c.backlogs.Run(ctx) })
	g.Go(func() error { return c.reports.Run(ctx) })
	c.consistencyParts.start(ctx, g, nc)
}
