package bridge

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/petiole-io/petiole/bridge/accounts"
	"github.com/petiole-io/petiole/bridge/desired"
	"github.com/petiole-io/petiole/bridge/hub"
	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/bridge/lease"
	"github.com/petiole-io/petiole/bridge/storage"
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
	// accountKeys and accountsConn are nil if the bridge makes no accounts at the hub.
	accountKeys  *accounts.Keys
	accountsConn *nats.Conn
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
	g.Go(func() error {
		return metrics.Serve(ctx, metrics.Endpoint{Listen: b.cfg.Metrics.Listen}, b.metrics.registry, nil, b.ready)
	})
	g.Go(func() error { return b.compete(ctx) })
	g.Go(func() error { return b.serveKubelets(ctx) })
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
	if a := b.cfg.NATS.Accounts; a.CredentialsFile != "" {
		if b.accountKeys, err = accounts.LoadKeys(b.cfg.NATS.accountFiles()); err != nil {
			return err
		}
		if b.accountKeys.Rotating() {
			b.log.Warn("the sites' key is being replaced: gateways are accepted with the former JWT as well until `bridge hub rotate --finish` and a restart with the file that it leaves", zap.String("file", b.cfg.NATS.Accounts.SiteKeyFile))
		}
		if b.accountsConn, err = hub.Dial(b.cfg.NATS.accounts(b.cfg.LeaderElection.Identity), b.log.Named("accounts")); err != nil {
			return err
		}
		defer hub.Close(b.accountsConn)
	}
	if err := b.awaitAPI(ctx, clients); err != nil {
		return nil // ctx has ended
	}
	log := b.log.With(zap.String("identity", b.cfg.LeaderElection.Identity))
	election := b.cfg.LeaderElection.lease()
	report := b.metrics.newOutages(b.log).of("leader election")
	election.Report = func(err error) {
		report(err)
		b.metrics.health.elected(err)
	}
	for ctx.Err() == nil {
		err := lease.Run(ctx, election, clients.Election, b.fence, log, func(ctx context.Context, transitions uint64) {
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
	report := b.metrics.newOutages(b.log).of("API server")
	return retryDelay().Until(ctx, true, true, func(ctx context.Context) (bool, error) {
		err := c.Own.CoreV1().RESTClient().Get().AbsPath("/version").Do(ctx).Error()
		if ctx.Err() == nil {
			report(err)
		}
		return err == nil, nil
	})
}

// retryDelay returns the delays between tries, from 100 ms to 30 s.
func retryDelay() wait.DelayFunc {
	return wait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Steps: 10, Cap: 30 * time.Second}.DelayFunc()
}

// lead works until ctx ends or another bridge becomes leader. When a component fails, for
// example because the hub's streams were replaced, lead starts all of them again from the
// present content of the streams.
func (b *Bridge) lead(ctx context.Context, c *kube.Clients, nc *nats.Conn, transitions uint64) {
	defer b.metrics.startLeading()()
	report, delay := b.metrics.newOutages(b.log).of("hub and API server"), retryDelay()
	for ctx.Err() == nil {
		started := time.Now()
		err := b.runComponents(ctx, c, nc, transitions, func() {
			report(nil)
			b.metrics.health.problem.Store(nil)
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
		report(err)
		b.metrics.health.problem.Store(&err)
		if errors.Is(err, hub.ErrReplaced) || errors.Is(err, storage.ErrMovedBack) || errors.Is(err, storage.ErrRecordLost) || time.Since(started) > time.Minute {
			delay = retryDelay()
		}
		select {
		case <-ctx.Done():
		case <-time.After(delay()):
		}
	}
}

// runComponents runs all components until ctx ends or one of them fails. It calls ready once
// they run.
func (b *Bridge) runComponents(ctx context.Context, c *kube.Clients, nc *nats.Conn, transitions uint64, ready func()) error {
	h, err := hub.Open(ctx, nc, streams.HubLimits{MaxSites: b.cfg.Limits.MaxSites, Replicas: b.cfg.NATS.Replicas})
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
	kubelets, err := b.kubeletEndpoint(ctx, c)
	if err != nil {
		return err
	}
	p, err := b.newComponents(h, c, monitor, epoch, kubelets)
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
		p.selection.Decide()
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
