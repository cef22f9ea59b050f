package bridge

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/util/workqueue"

	"github.com/petiole-io/petiole/streams"
)

// heartbeatConsumer receives the sites' heartbeats, renews the leases of live nodes, and
// notifies other components when sites connect or disconnect and nodes become alive.
type heartbeatConsumer struct {
	publish    *publisher
	liveness   *liveness
	log        *zap.Logger
	count      *counters
	queue      workqueue.TypedRateLimitingInterface[string]
	outage     *outage
	duplicates *duplicateDetector
	leases     *nodeLeases

	// onNodesAlive is called when nodes of a site become alive, onSiteChanged when a site
	// connects or disconnects.
	onNodesAlive  func(site string, nodes []string)
	onSiteChanged func(site string)

	mu    sync.Mutex
	renew map[string][]string
}

// run receives heartbeats until ctx ends.
func (c *heartbeatConsumer) run(ctx context.Context, nc *nats.Conn, workers int) error {
	sub, err := nc.Subscribe(streams.PresenceFilter, func(m *nats.Msg) { c.handle(m) })
	if err != nil {
		return fmt.Errorf("subscribe to presence: %w", err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		<-ctx.Done()
		c.queue.ShutDown()
	})
	for range workers {
		wg.Go(func() {
			for site, down := c.queue.Get(); !down; site, down = c.queue.Get() {
				c.renewLeases(ctx, site)
				c.queue.Done(site)
			}
		})
	}
	wg.Go(func() {
		for sleep(ctx, time.Second) {
			for _, site := range c.liveness.expire(time.Now()) {
				c.log.Info("site disconnected", zap.String("site", site))
				c.onSiteChanged(site)
			}
		}
	})
	wg.Wait()
	if err := sub.Unsubscribe(); err != nil && !nc.IsClosed() {
		return fmt.Errorf("unsubscribe from presence: %w", err)
	}
	return nil
}

// handle runs on the subscription's goroutine and only records and enqueues.
func (c *heartbeatConsumer) handle(m *nats.Msg) {
	site, err := streams.SiteOfPresence(m.Subject)
	if err != nil || !c.publish.siteExists(site) {
		return
	}
	b, err := streams.DecodePresence(m.Data)
	if err != nil {
		c.count.refused.Add(1)
		c.log.Debug("invalid heartbeat", zap.String("site", site), zap.Error(err))
		return
	}
	c.duplicates.heartbeat(site, b.Boot, time.Now())
	alive, nowAlive, connected := c.liveness.heartbeat(site, b, time.Now())
	if connected {
		c.log.Info("site connected", zap.String("site", site), zap.String("version", b.Version))
		c.onSiteChanged(site)
	}
	if len(nowAlive) > 0 {
		c.onNodesAlive(site, nowAlive)
	}
	if len(alive) > 0 {
		c.mu.Lock()
		c.renew[site] = alive
		c.mu.Unlock()
		c.queue.Add(site)
	}
}

func (c *heartbeatConsumer) renewLeases(ctx context.Context, site string) {
	c.mu.Lock()
	nodes := c.renew[site]
	c.mu.Unlock()
	for _, n := range nodes {
		// Check again: the heartbeat may have waited in the queue, and a lease must be true.
		if ok, _ := c.liveness.alive(site, n, time.Now()); !ok {
			continue
		}
		err := c.leases.renew(ctx, site, n)
		if ctx.Err() != nil {
			return
		}
		if apierrors.IsConflict(err) {
			// Another writer has renewed or recreated the lease: try once more.
			c.count.conflicts.Add(1)
			c.queue.AddRateLimited(site)
			return
		}
		c.outage.report(err)
		if err != nil {
			c.queue.AddRateLimited(site)
			return
		}
	}
	c.queue.Forget(site)
}
