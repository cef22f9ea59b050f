package bridge

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/petiole-io/petiole/bridge/accounts"
	"github.com/petiole-io/petiole/bridge/antientropy"
	"github.com/petiole-io/petiole/bridge/bounds"
	"github.com/petiole-io/petiole/bridge/desired"
	"github.com/petiole-io/petiole/bridge/hub"
	"github.com/petiole-io/petiole/bridge/join"
	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/bridge/liveness"
	"github.com/petiole-io/petiole/bridge/names"
	"github.com/petiole-io/petiole/bridge/orphans"
	"github.com/petiole-io/petiole/bridge/reported"
	"github.com/petiole-io/petiole/bridge/requests"
	"github.com/petiole-io/petiole/bridge/selection"
	"github.com/petiole-io/petiole/bridge/site"
	"github.com/petiole-io/petiole/bridge/storage"
	"github.com/petiole-io/petiole/bridge/writeback"
	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/inventory"
	joinapi "github.com/petiole-io/petiole/streams/join"
	"github.com/petiole-io/petiole/streams/traffic"
	"github.com/petiole-io/petiole/streams/urgent"
)

// nodeReturnGrace is the time for which a deleted node's site keeps the node and its pods: a
// node that is alive registers again well before.
const nodeReturnGrace = 15 * time.Second

// components are the parts of a leading bridge.
type components struct {
	cache      *kube.Cache
	desired    *desired.Reconciler
	liveness   *liveness.Tracker
	heartbeats *liveness.Heartbeats
	sites      *site.Controller
	reports    *reported.Reconciler
	clients    *kube.Clients
	syncStates *antientropy.States
	backlogs   *site.Backlogs
	resync     *antientropy.Resyncer
	requests   *requests.Server
	accounts   *accounts.Controller
	names      *names.Registry
	selection  *selection.Follower
	// followers do what changed objects need in the API alone.
	followers []follower
}

// follower is told of each changed object, and works until ctx ends.
type follower interface {
	Changed(k kube.Key)
	Run(ctx context.Context)
	// Close shuts down the queue of a follower that Run was not called for.
	Close()
}

// newStorageMonitor creates the monitor of the API server's storage.
func (b *Bridge) newStorageMonitor(h *hub.Hub, c *kube.Clients) *storage.Monitor {
	return storage.NewMonitor(storage.Config{
		Bucket: h.Bucket, Clients: c, Fence: b.fence, Log: b.log,
		Identity: b.cfg.LeaderElection.Identity, Namespace: b.cfg.LeaderElection.Namespace,
		Report: b.metrics.newOutages(b.log).of("epoch of the API server's storage"), OnNewEpoch: func() { b.count.epochs.Add(1) },
	})
}

// newComponents creates the components of a bridge that leads in an epoch, and connects them.
// It starts nothing.
func (b *Bridge) newComponents(h *hub.Hub, c *kube.Clients, monitor *storage.Monitor, epoch string, kubelets writeback.Endpoint) (*components, error) {
	outages := b.metrics.newOutages(b.log)
	p := &components{clients: c, liveness: liveness.NewTracker()}
	p.syncStates = antientropy.NewStates(b.metrics.syncHooks(&b.count, func() { p.sites.Trigger() }))
	deleted := writeback.NewDeletedNodes()
	cache, err := kube.NewCache(c.Dynamic, kube.Handlers{
		Changed: p.objectChanged, Deleted: deleted.Add,
		Requests:       kube.Requests{Answered: monitor.Answered, Report: outages.ofParts("watch the API server")},
		SelectedListed: func(gr schema.GroupResource) { p.desired.Listed(gr) },
		SelectedReport: p.selectedReport(outages.ofParts("watch what Sites select")),
	})
	if err != nil {
		return nil, err
	}
	p.cache = cache
	p.names = names.New(c.Dynamic, cache)
	problems, writeRate, eventRate := bounds.NewProblems(time.Now), bounds.NewWriteRate(time.Now), bounds.NewEventRate(time.Now)
	certificateRate := bounds.NewCertificateRate(time.Now)
	p.desired = desired.New(desired.Config{
		Hub: h, Objects: cache, Storage: monitor, Fence: b.fence, Epoch: epoch, Counters: &b.count.desired, Log: b.log,
		Changed: newQueue[kube.Key](b.metrics, "objects", publishRetry), Sites: newQueue[string](b.metrics, "sites", publishRetry),
		Report: outages.of("search the desired stream"),
	})
	p.selection = selection.New(selection.Config{
		Cache: cache, Sites: func() []string { return slices.Collect(maps.Keys(p.desired.NodesBySite())) }, Matched: p.desired.Matched, Log: b.log,
	})
	writes := writeback.Config{Clients: c, Cache: cache, Sites: p.desired, Liveness: p.liveness, Deleted: deleted, Names: p.names, Problems: problems, Kubelets: kubelets, Log: b.log}
	reportQueue := newQueueConfig[reported.Key](b.metrics, "writeback")
	p.reports = reported.New(reported.Config{
		Hub: h, Sites: p.desired, Liveness: p.liveness, Fence: b.fence, Counters: &b.count.reported, Log: b.log,
		Writer:    writeback.New(writes),
		Queue:     withRetries(reportQueue, reported.NewQueue(reportQueue, b.cfg.Limits.Workers), writeRetry),
		SiteQueue: newQueue[string](b.metrics, "reports", writeRetry),
		Workers:   b.cfg.Limits.Workers, Report: outages.of("write back to the API server"),
		Limits:        reported.Limits{Writes: writeRate, Events: eventRate, Problems: problems, OnLimited: b.metrics.sites.CountLimited},
		OnQuarantined: b.metrics.sites.CountQuarantined, OnSiteConnected: p.siteChanged,
	})
	p.followers = []follower{
		p.selection,
		liveness.NewTolerations(liveness.TolerationsConfig{
			Pods: c.Own.CoreV1(), Cache: cache, PodsOn: p.desired.PodsOn, Log: b.log, Report: outages.of("set tolerations"),
			Queue: newQueue[kube.Key](b.metrics, "autonomy", writeRetry),
		}),
		writeback.NewPlacement(writeback.PlacementConfig{
			Config: writes, Report: outages.of("write states of devices"),
			Queue: newQueue[kube.Key](b.metrics, "placement", writeRetry),
		}),
		orphans.New(orphans.Config{
			Clients: c, Cache: cache, NodesOf: p.desired.NodesOf, Delay: b.cfg.Sites.NodeDeletionDelay.Duration, Identity: b.cfg.LeaderElection.Identity,
			Queue: newQueue[string](b.metrics, "orphans", writeRetry), Log: b.log, Report: outages.of("delete nodes of deleted sites"),
		}),
	}
	duplicates := liveness.NewDuplicateDetector()
	p.heartbeats = liveness.NewHeartbeats(liveness.Config{
		Tracker: p.liveness, Duplicates: duplicates, Leases: liveness.NewNodeLeases(c.Leases, cache), SiteExists: p.desired.SiteExists,
		NodesOf: p.desired.NodesOf, OnNodesAlive: p.reports.NodesAlive, OnNodesDead: p.reports.NodesDead, OnSiteChanged: p.siteChanged, Queue: newQueue[string](b.metrics, "leases", writeRetry),
		Log: b.log, Report: outages.of("renew node leases"),
		OnRefused: func() { b.count.refused.Add(1) }, OnConflict: func() { b.count.reported.Conflicts.Add(1) },
	})
	consumers := desired.NewConsumers(p.desired, hub.Room{
		Bytes: b.cfg.Limits.HubBytes, MaxSites: b.cfg.Limits.MaxSites, Replicas: b.cfg.NATS.Replicas,
	})
	entry, err := b.cfg.entry()
	if err != nil {
		return nil, err
	}
	p.accounts = b.newAccounts(p, entry, outages)
	carried := site.NewTraffic(site.TrafficConfig{
		Cache: cache, SiteExists: p.desired.SiteExists, OnReport: func() { p.sites.Trigger() },
		Ask: func(site string) error { return h.Conn.PublishMsg(streams.Control(site, streams.ControlTraffic)) }, Log: b.log,
	})
	p.sites = site.New(site.Config{
		Bounds: site.Bounds{
			Names: p.names, Problems: problems, Traffic: carried, Access: p.accounts.State, Selected: p.selection.Condition,
			Retain: func(exists func(string) bool) {
				problems.Retain(exists)
				carried.Retain(exists)
				writeRate.Retain(exists)
				eventRate.Retain(exists)
				certificateRate.Retain(exists)
			},
		},
		Desired: h.Desired, Clients: c, Cache: cache, Sites: p.desired, Consumers: consumers, Liveness: p.liveness,
		Duplicates: duplicates, States: p.syncStates, Metrics: b.metrics.sites, Epoch: epoch, Term: b.fence.Term(),
		Identity: b.cfg.LeaderElection.Identity, Log: b.log, OnRound: b.siteRoundEnded(outages.of("positions of the sites")),
	})
	p.backlogs = site.NewBacklogs(site.BacklogsConfig{
		Hub: h, Client: c.Dynamic, SiteExists: p.desired.SiteExists, Queue: newQueue[string](b.metrics, "backlogs", writeRetry),
		Report: outages.of("answer backlogs"), ReportWatch: outages.ofParts("answer backlogs"),
	})
	p.resync = antientropy.NewResyncer(antientropy.Config{
		Hub: h, Cache: cache, Sites: p.desired, Liveness: p.liveness, States: p.syncStates,
		Fence: b.fence, Log: b.log, Report: outages.of("resync sites"),
	})
	answers := &antientropy.Answerer{Desired: p.desired, States: p.syncStates, Resyncer: p.resync, Counters: &b.count.antientropy, Log: b.log}
	p.requests = requests.New(map[string]requests.Handler{
		streams.RequestToken: requests.Tokens(c, cache, b.cfg.Limits.Workers, func() { b.count.tokens.Add(1) }),
		streams.RequestPodCertificate: requests.PodCertificates(c, cache, b.cfg.Limits.Workers,
			func(site string) time.Duration { return certificateRate.Take(site, 1) }),
		inventory.Request:       answers.Handler(),
		streams.RequestPosition: requests.Positions(h),
		joinapi.Verb: join.Handler(join.Config{
			Keys: b.accountKeys, Cache: cache, Client: c.Dynamic, Authorities: entry.Authorities, Log: b.log.Named("join"),
		}),
		streams.RequestHub: requests.HubInfo(h.Conn),
		traffic.Request:    requests.Traffic(carried.Record, carried.Budget),
		urgent.Request:     requests.Urgent(p.desired),
	}, func() { b.count.refused.Add(1) }, b.log)
	return p, nil
}

// selectedReport returns a function that reports the result of a list or watch of a resource that
// Sites select: their conditions show it.
func (c *components) selectedReport(report func(string, error)) func(string, error) {
	return func(resource string, err error) {
		report(resource, err)
		if err != nil {
			c.sites.Trigger()
		}
	}
}

// siteRoundEnded returns a function that reports the result of a round of the Site controller, and
// counts those without error.
func (b *Bridge) siteRoundEnded(report func(error)) func(error) {
	return func(err error) {
		report(err)
		if err == nil {
			b.count.siteRounds.Add(1)
		}
	}
}

// newAccounts creates the controller of the sites' accounts. Without keys it only tells Sites
// that ask for accounts that there are none.
func (b *Bridge) newAccounts(p *components, entry accounts.Entry, outages *outages) *accounts.Controller {
	cfg := accounts.Config{
		Sites: site.Specs{Cache: p.cache, Names: func() []string { return slices.Collect(maps.Keys(p.desired.NodesBySite())) }},
		Check: b.fence.Check, Queue: newQueue[string](b.metrics, "accounts", writeRetry), Workers: b.cfg.Limits.Workers, Entry: entry,
		OnChanged: func() { p.sites.Trigger() }, Report: outages.ofParts("store accounts at the hub"), Log: b.log,
	}
	if b.accountKeys != nil {
		cfg.Keys, cfg.Resolver = b.accountKeys, accounts.NewResolver(b.accountsConn, b.accountKeys)
	}
	return accounts.New(cfg)
}

// objectChanged passes a changed object to the components that need it. It runs on the
// informers' goroutines and only enqueues.
func (c *components) objectChanged(k kube.Key) {
	delay := time.Duration(0)
	if c.awaitsReregistration(k) {
		delay = nodeReturnGrace
	}
	c.desired.Changed(k, delay)
	for _, f := range c.followers {
		f.Changed(k)
	}
	c.reports.ObjectChanged(k)
	switch {
	case k.Group == kube.SiteGroup:
		if c.names.SiteChanged(k.Name) {
			c.reports.SiteChanged(k.Name) // its nodes' labels and taints may differ now
		}
		c.sites.Trigger()
		c.accounts.Changed(k.Name)
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
		if o := c.cache.Get(kube.SiteKey(name)); o != nil {
			connected, since := site.Connection(o)
			c.liveness.Restore(name, connected, since, now)
		}
	}
}

// close shuts down the queues, including those of components that were never started.
func (c *components) close() {
	c.desired.Close()
	c.reports.Close()
	for _, f := range c.followers {
		f.Close()
	}
	c.heartbeats.Close()
	c.backlogs.Close()
	c.accounts.Close()
}

// start runs the components in g until ctx ends.
func (c *components) start(ctx context.Context, g *errgroup.Group, nc *nats.Conn, workers int) {
	g.Go(func() error { return c.desired.Run(ctx, workers) })
	for _, f := range c.followers {
		g.Go(func() error { f.Run(ctx); return nil })
	}
	g.Go(func() error { return c.heartbeats.Run(ctx, nc, workers) })
	g.Go(func() error { return c.sites.Run(ctx) })
	g.Go(func() error { return c.backlogs.Run(ctx) })
	g.Go(func() error { return c.reports.Run(ctx) })
	g.Go(func() error { return c.requests.Run(ctx, nc) })
	g.Go(func() error { c.resync.Run(ctx); return nil })
	g.Go(func() error { return c.accounts.Run(ctx) })
}
