package bridge

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/util/workqueue"

	"github.com/petiole-io/petiole/streams"
)

var tokenResource = schema.GroupResource{Resource: "serviceaccounts/token"}

// Bridge joins one API server to one hub. Make it with New.
type Bridge struct {
	cfg   Config
	log   *zap.Logger
	count counters
}

// New returns a bridge that has not started anything yet. The configuration is taken as
// valid: see Config.Validate.
func New(cfg Config, log *zap.Logger) *Bridge { return &Bridge{cfg: cfg, log: log} }

// Counters says what the bridge has done since it was made. It is safe for concurrent
// use.
func (b *Bridge) Counters() Counters { return b.count.snapshot() }

// Run competes for leadership and acts while it has it, until ctx ends; then it returns
// nil, after all that it started has stopped. An API server or a hub that is away is
// waited for. An error means that the configuration cannot work.
func (b *Bridge) Run(ctx context.Context) error {
	rc, err := restConfig(b.cfg.Kubernetes)
	if err != nil {
		return err
	}
	clients, err := newClients(rc, b.cfg.Kubernetes.Impersonation)
	if err != nil {
		return err
	}
	defer clients.close()
	nc, err := dialHub(b.cfg.NATS, b.cfg.LeaderElection.Identity, b.log)
	if err != nil {
		return err
	}
	defer closeHub(nc)
	if err := b.awaitAPI(ctx, clients); err != nil {
		return nil // ctx has ended
	}
	log := b.log.With(zap.String("identity", b.cfg.LeaderElection.Identity))
	for ctx.Err() == nil {
		if err := campaign(ctx, b.cfg.LeaderElection, clients.own, log, func(ctx context.Context) { b.lead(ctx, clients, nc) }); err != nil {
			return err
		}
	}
	return nil
}

// closeHub closes the connection and waits until its callbacks are done.
func closeHub(nc *nats.Conn) {
	closed := make(chan struct{})
	var once sync.Once
	nc.SetClosedHandler(func(*nats.Conn) { once.Do(func() { close(closed) }) })
	if nc.IsClosed() {
		return
	}
	nc.Close()
	<-closed
}

// awaitAPI returns when the API server answers, or with ctx's error.
func (b *Bridge) awaitAPI(ctx context.Context, c *clients) error {
	out := newOutage(b.log, "API server")
	for n := 0; ; n++ {
		err := c.own.CoreV1().RESTClient().Get().AbsPath("/version").Do(ctx).Error()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		out.report(err)
		if err == nil {
			return nil
		}
		if !pause(ctx, backoff(n)) {
			return ctx.Err()
		}
	}
}

// lead acts until ctx ends. What fails as a whole, such as a hub whose streams were
// replaced, is started again with what the streams hold then.
func (b *Bridge) lead(ctx context.Context, c *clients, nc *nats.Conn) {
	out := newOutage(b.log, "hub and API server")
	for n := 0; ctx.Err() == nil; n++ {
		started := time.Now()
		err := b.act(ctx, c, nc, func() { out.report(nil) })
		if ctx.Err() != nil {
			return
		}
		out.report(err)
		if errors.Is(err, errHubReplaced) || time.Since(started) > time.Minute {
			n = 0
		}
		if !pause(ctx, backoff(n)) {
			return
		}
	}
}

// act runs all parts until ctx ends or one of them fails. ready is called when they
// run.
func (b *Bridge) act(ctx context.Context, c *clients, nc *nats.Conn, ready func()) error {
	hub, err := openHub(ctx, nc, streams.HubLimits{
		MaxSites: b.cfg.Limits.MaxSites, TelemetryBytes: b.cfg.Limits.TelemetryBytes, Replicas: b.cfg.NATS.Replicas,
	})
	if err != nil {
		return err
	}
	epoch, err := b.epoch(ctx, c)
	if err != nil {
		return err
	}
	was, err := recoverPublished(ctx, hub)
	if err != nil {
		return err
	}
	p, err := b.assemble(hub, c)
	if err != nil {
		return err
	}
	defer p.close()
	g, ctx := errgroup.WithContext(ctx)
	synced := make(chan struct{})
	g.Go(func() error {
		p.watch.run(ctx, func() { close(synced) })
		return nil
	})
	g.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case <-synced:
		}
		p.publish.start(hub, epoch, was)
		if err := p.intake.recover(ctx, ">", false); err != nil {
			return err
		}
		p.adoptSites()
		ready()
		p.start(ctx, g, nc, b.cfg.Limits.Workers)
		return nil
	})
	return g.Wait()
}

// epoch names the API server's storage: the UID of an object that every cluster has
// for as long as it lives.
func (b *Bridge) epoch(ctx context.Context, c *clients) (string, error) {
	ns, err := c.own.CoreV1().Namespaces().Get(ctx, metav1.NamespaceSystem, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("read namespace %s: %w", metav1.NamespaceSystem, err)
	}
	return string(ns.UID), nil
}

// parts are what a leading bridge consists of.
type parts struct {
	log        *zap.Logger
	watch      *watch
	publish    *publisher
	presence   *presence
	heartbeats *heartbeats
	survey     *survey
	reports    *reports
	intake     *intake
	writeback  *writeback
	autonomy   *autonomy
	tokens     *tokens
}

// assemble makes the parts and joins them; nothing runs yet.
func (b *Bridge) assemble(h *hub, c *clients) (*parts, error) {
	outageOf := func(what string) *outage { return newOutage(b.log, what) }
	p := &parts{log: b.log, presence: newPresence(), reports: newReports()}
	w, err := newWatch(c.dynamic, outageOf("watch the API server"), p.changed)
	if err != nil {
		return nil, err
	}
	p.watch = w
	p.publish = newPublisher(w, &b.count, b.log)
	queue := workqueue.NewTypedRateLimitingQueue(retryDelays[reportKey](writeRetry))
	p.intake = &intake{
		hub: h, reports: p.reports, publish: p.publish, presence: p.presence, log: b.log, count: &b.count, queue: queue,
		last: map[string]uint64{}, spent: map[string][]uint64{}, strays: map[string]bool{},
	}
	p.writeback = &writeback{
		clients: c, watch: w, publish: p.publish, presence: p.presence, reports: p.reports, intake: p.intake,
		log: b.log, count: &b.count, queue: queue, outage: outageOf("write back to the API server"),
	}
	p.intake.woke, p.intake.changed = p.writeback.woke, p.siteChanged
	p.autonomy = &autonomy{
		clients: c, watch: w, publish: p.publish, log: b.log, outage: outageOf("set tolerations"),
		queue: workqueue.NewTypedRateLimitingQueue(retryDelays[objectKey](writeRetry)),
	}
	p.heartbeats = &heartbeats{
		clients: c, watch: w, publish: p.publish, presence: p.presence, log: b.log, outage: outageOf("renew node leases"),
		queue: workqueue.NewTypedRateLimitingQueue(retryDelays[string](writeRetry)), renew: map[string][]string{},
		woke: p.writeback.woke, changed: p.siteChanged,
	}
	p.survey = &survey{
		hub: h, clients: c, watch: w, publish: p.publish, presence: p.presence, log: b.log, outage: outageOf("positions of the sites"),
		poke: make(chan struct{}, 1), ensured: map[string]bool{},
	}
	p.tokens = &tokens{clients: c, watch: w, log: b.log, count: &b.count}
	return p, nil
}

// changed hands an object that changed to the parts that care. It runs on the watch's
// goroutines and only enqueues.
func (p *parts) changed(k objectKey) {
	p.publish.changed(k)
	p.autonomy.changed(k)
	p.writeback.changed(k)
	switch {
	case k.Group == siteGroup:
		p.survey.now()
	case k.Group == "" && k.Resource == "nodes":
		p.survey.now()
		if p.watch.get(k) == nil {
			p.writeback.clients.forget(k.Name)
		}
	case k.Group == deviceGroup && k.Resource == "devices":
		// A report that came before its device is held against it now.
		p.writeback.changed(objectKey{Group: deviceGroup, Resource: "devicestatuses", Namespace: k.Namespace, Name: k.Name})
	}
}

// siteChanged is told when a site was connected or disconnected: its nodes and its
// Site say so.
func (p *parts) siteChanged(site string) {
	for _, k := range p.reports.ofSite(site) {
		if k.ref.Group == "" && k.ref.Resource == "nodes" {
			p.writeback.queue.Add(k)
		}
	}
	p.survey.now()
}

// adoptSites takes over what an earlier bridge knew of the sites.
func (p *parts) adoptSites() {
	now := time.Now()
	for site := range p.publish.siteNodes() {
		if o := p.watch.get(objectKey{Group: siteGroup, Resource: "sites", Name: site}); o != nil {
			connected, since := siteStatusOf(o)
			p.presence.adopt(site, connected, since, now)
		}
	}
}

// close ends the queues, also of parts that were never started.
func (p *parts) close() {
	p.publish.objects.ShutDown()
	p.publish.queue.ShutDown()
	p.writeback.queue.ShutDown()
	p.autonomy.queue.ShutDown()
	p.heartbeats.queue.ShutDown()
}

// start runs the parts in g until ctx ends.
func (p *parts) start(ctx context.Context, g *errgroup.Group, nc *nats.Conn, workers int) {
	g.Go(func() error { p.publish.run(ctx, workers); return nil })
	g.Go(func() error { p.writeback.run(ctx, workers); return nil })
	g.Go(func() error { p.autonomy.run(ctx); return nil })
	g.Go(func() error { return p.heartbeats.run(ctx, nc, workers) })
	g.Go(func() error { return p.survey.run(ctx) })
	g.Go(func() error { return p.intake.run(ctx) })
	g.Go(func() error { return p.tokens.run(ctx, nc, workers) })
}
