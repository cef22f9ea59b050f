package liveness

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/util/workqueue"

	"github.com/petiole-io/petiole/streams"
)

// Config is what Heartbeats need.
type Config struct {
	Tracker    *Tracker
	Duplicates *DuplicateDetector
	Leases     *NodeLeases
	// SiteExists reports whether a Site with that name exists; heartbeats of others are ignored.
	SiteExists func(site string) bool
	// NodesOf returns the nodes that a site has in the API.
	NodesOf func(site string) []string
	// OnNodesAlive is called when nodes of a site become alive, OnNodesDead at each heartbeat with
	// those that have died while their site is connected, OnSiteChanged when a site connects or
	// disconnects. None may block.
	OnNodesAlive, OnNodesDead func(site string, nodes []string)
	OnSiteChanged             func(site string)
	// Queue holds the sites whose leases must be renewed.
	Queue workqueue.TypedRateLimitingInterface[string]
	Log   *zap.Logger
	// Report is called with the result of each renewal, OnRefused for each heartbeat that is
	// invalid, OnConflict for each renewal that another writer got ahead of.
	Report                func(error)
	OnRefused, OnConflict func()
}

// Heartbeats receives the sites' heartbeats, renews the leases of live nodes, and notifies
// other components when sites connect or disconnect and nodes become alive.
type Heartbeats struct {
	cfg Config

	mu sync.Mutex
	// renew maps each site to the nodes that its last heartbeat showed alive.
	renew map[string][]string
}

// NewHeartbeats returns a receiver that has not started.
func NewHeartbeats(cfg Config) *Heartbeats {
	return &Heartbeats{cfg: cfg, renew: map[string][]string{}}
}

// Run receives heartbeats until ctx ends. workers renew leases in parallel.
func (h *Heartbeats) Run(ctx context.Context, nc *nats.Conn, workers int) error {
	sub, err := nc.Subscribe(streams.PresenceFilter, func(m *nats.Msg) { h.handle(m) })
	if err != nil {
		return fmt.Errorf("subscribe to presence: %w", err)
	}
	h.requestHeartbeats(nc)
	var wg sync.WaitGroup
	wg.Go(func() {
		<-ctx.Done()
		h.cfg.Queue.ShutDown()
	})
	for range workers {
		wg.Go(func() {
			for site, down := h.cfg.Queue.Get(); !down; site, down = h.cfg.Queue.Get() {
				h.renewLeases(ctx, site)
				h.cfg.Queue.Done(site)
			}
		})
	}
	wg.Go(func() { wait.UntilWithContext(ctx, h.expire, time.Second) })
	wg.Go(func() { wait.UntilWithContext(ctx, h.renewQuiet, streams.PresenceInterval) })
	wg.Wait()
	if err := sub.Unsubscribe(); err != nil && !nc.IsClosed() {
		return fmt.Errorf("unsubscribe from presence: %w", err)
	}
	return nil
}

// expire disconnects the sites that have been silent for too long.
func (h *Heartbeats) expire(context.Context) {
	for _, site := range h.cfg.Tracker.Expire(time.Now()) {
		h.cfg.Log.Info("site disconnected", zap.String("site", site))
		h.cfg.OnSiteChanged(site)
	}
}

// renewQuiet has the leases of the sites renewed whose heartbeats are far apart.
func (h *Heartbeats) renewQuiet(context.Context) {
	for site, nodes := range h.cfg.Tracker.Quiet(time.Now()) {
		h.mu.Lock()
		h.renew[site] = nodes
		h.mu.Unlock()
		h.cfg.Queue.Add(site)
	}
}

// requestHeartbeats asks the sites that were connected for a heartbeat: those of some are minutes
// apart, and only a heartbeat names the nodes that are alive.
func (h *Heartbeats) requestHeartbeats(nc *nats.Conn) {
	for _, site := range h.cfg.Tracker.Connected() {
		if err := nc.PublishMsg(streams.Control(site, streams.ControlPresence)); err != nil {
			h.cfg.Log.Warn("heartbeat not requested", zap.String("site", site), zap.Error(err))
		}
	}
}

// Forget drops what is known about the lease of a deleted node.
func (h *Heartbeats) Forget(node string) { h.cfg.Leases.forget(node) }

// Close shuts down the queue, for a receiver that was never started.
func (h *Heartbeats) Close() { h.cfg.Queue.ShutDown() }

// handle runs on the subscription's goroutine and only records and enqueues.
func (h *Heartbeats) handle(m *nats.Msg) {
	site, err := streams.SiteOfPresence(m.Subject)
	if err != nil || !h.cfg.SiteExists(site) {
		return
	}
	b, err := streams.DecodePresence(m.Data)
	if err != nil {
		h.cfg.OnRefused()
		h.cfg.Log.Debug("invalid heartbeat", zap.String("site", site), zap.Error(err))
		return
	}
	h.cfg.Duplicates.Heartbeat(site, b.Boot, time.Now())
	alive, nowAlive, connected := h.cfg.Tracker.Heartbeat(site, b, time.Now())
	if connected {
		h.cfg.Log.Info("site connected", zap.String("site", site), zap.String("version", b.Version))
		h.cfg.OnSiteChanged(site)
	}
	if len(nowAlive) > 0 {
		h.cfg.OnNodesAlive(site, nowAlive)
	}
	dead := slices.DeleteFunc(slices.Clone(h.cfg.NodesOf(site)), func(n string) bool { return !h.cfg.Tracker.Dead(site, n, time.Now()) })
	if len(dead) > 0 {
		h.cfg.OnNodesDead(site, dead)
	}
	if len(alive) > 0 {
		h.mu.Lock()
		h.renew[site] = alive
		h.mu.Unlock()
		h.cfg.Queue.Add(site)
	}
}

func (h *Heartbeats) renewLeases(ctx context.Context, site string) {
	h.mu.Lock()
	nodes := h.renew[site]
	h.mu.Unlock()
	for _, n := range nodes {
		// Check again: the heartbeat may have waited in the queue, and a lease must be true.
		if ok, _ := h.cfg.Tracker.Alive(site, n, time.Now()); !ok {
			continue
		}
		err := h.cfg.Leases.renew(ctx, site, n)
		if ctx.Err() != nil {
			return
		}
		if apierrors.IsConflict(err) {
			// Another writer has renewed or recreated the lease: try once more.
			h.cfg.OnConflict()
			h.cfg.Queue.AddRateLimited(site)
			return
		}
		h.cfg.Report(err)
		if err != nil {
			h.cfg.Queue.AddRateLimited(site)
			return
		}
	}
	h.cfg.Queue.Forget(site)
}
