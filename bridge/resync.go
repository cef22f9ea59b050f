package bridge

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/bridge/hub"
	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/bridge/lease"
	"github.com/petiole-io/petiole/bridge/liveness"
	"github.com/petiole-io/petiole/streams"
)

const (
	// resyncInterval is the time between two rounds.
	resyncInterval = time.Second
	// resyncSpacing is the minimum time between a resync of a site and an automatic one.
	resyncSpacing = 10 * time.Minute
	// maxResyncValue bounds the value of the annotation, in bytes, because the status repeats
	// it.
	maxResyncValue = 1024
)

// resyncer carries out full resyncs: it resets the hub's consumer of a site to the first
// message, whether the site is connected or not. Once the site has acknowledged everything, it
// is asked to compare its inventory, which finds what it should not have.
type resyncer struct {
	hub        *hub.Hub
	cache      objectCache
	publish    *publisher
	liveness   *liveness.Tracker
	syncStates *syncStates
	fence      *lease.Fence
	log        *zap.Logger
	count      *counters
	outage     *outage
	now        func() time.Time

	mu sync.Mutex
	// annotated are Sites whose annotation must be checked, mismatched those that differed
	// repeatedly, toCompare those to ask for a comparison.
	annotated, mismatched, toCompare map[string]bool

	// rejected holds the Sites with an invalid annotation. Only run uses it.
	rejected map[string]bool
}

func newResyncer() *resyncer {
	return &resyncer{annotated: map[string]bool{}, mismatched: map[string]bool{}, toCompare: map[string]bool{}, rejected: map[string]bool{}, now: time.Now}
}

// annotationChanged schedules a check of a Site's annotation. It does not block.
func (r *resyncer) annotationChanged(site string) { r.add(r.annotated, site) }

// mismatchRepeated schedules a resync of a site that still differed after a repair.
func (r *resyncer) mismatchRepeated(site string) { r.add(r.mismatched, site) }

// compareWhenCaughtUp asks a site to compare its inventory when it has caught up.
func (r *resyncer) compareWhenCaughtUp(site string) { r.add(r.toCompare, site) }

func (r *resyncer) add(in map[string]bool, site string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	in[site] = true
}

// drain empties a set and returns its sites.
func (r *resyncer) drain(from map[string]bool) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	sites := make([]string, 0, len(from))
	for s := range from {
		sites = append(sites, s)
	}
	clear(from)
	return sites
}

// run works until ctx ends.
func (r *resyncer) run(ctx context.Context) error {
	for sleep(ctx, resyncInterval) {
		var errs []error
		for _, site := range r.drain(r.annotated) {
			if err := r.resyncRequested(ctx, site); err != nil {
				r.annotationChanged(site)
				errs = append(errs, err)
			}
		}
		for _, site := range r.drain(r.mismatched) {
			if err := r.resyncMismatched(ctx, site); err != nil {
				r.mismatchRepeated(site)
				errs = append(errs, err)
			}
		}
		for _, site := range r.drain(r.toCompare) {
			if err := r.requestComparison(ctx, site); err != nil {
				errs = append(errs, err)
			}
		}
		if ctx.Err() == nil {
			r.outage.report(errors.Join(errs...))
		}
	}
	return nil
}

// resyncRequested carries out the resync that a Site's annotation requests, once per value.
func (r *resyncer) resyncRequested(ctx context.Context, site string) error {
	o := r.cache.Get(kube.Key{Group: kube.SiteGroup, Resource: "sites", Name: site})
	if o == nil {
		r.syncStates.forget(site)
		delete(r.rejected, site)
		return nil
	}
	value := o.GetAnnotations()[v1alpha1.ResyncAnnotation]
	if len(value) > maxResyncValue {
		if !r.rejected[site] {
			r.log.Warn("resync rejected, the value of the annotation is too long", zap.String("site", site), zap.Int("bytes", len(value)), zap.Int("limit", maxResyncValue))
		}
		r.rejected[site] = true
		return nil
	}
	delete(r.rejected, site)
	if value == "" || value == r.syncStates.get(site).ResyncRequested || value == kube.StringAt(o, "status", "resync", "requested") {
		return nil
	}
	return r.resync(ctx, site, ResyncRequested, value)
}

func (r *resyncer) resyncMismatched(ctx context.Context, site string) error {
	if last := r.syncStates.get(site).Resynced; !last.IsZero() && r.now().Sub(last) < resyncSpacing {
		return nil
	}
	return r.resync(ctx, site, ResyncMismatch, "")
}

// resync resets the site's consumer. If there is none, it will start at the first message when
// it is created.
func (r *resyncer) resync(ctx context.Context, site, reason, value string) error {
	if err := r.fence.Check(); err != nil {
		return err
	}
	if !r.publish.siteExists(site) {
		return nil
	}
	_, err := r.hub.JS.ResetConsumerToSequence(ctx, streams.Desired, site, 1)
	if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return fmt.Errorf("resync site %s: %w", site, err)
	}
	r.log.Info("full resync started", zap.String("site", site), zap.String("reason", reason))
	r.count.resyncs.Add(1)
	r.syncStates.resynced(site, r.now(), reason, value)
	r.compareWhenCaughtUp(site)
	return nil
}

// requestComparison asks a site to compare its inventory if the site has acknowledged
// everything. A disconnected site compares by itself when it reconnects.
func (r *resyncer) requestComparison(ctx context.Context, site string) error {
	if connected, _, _ := r.liveness.State(site); !connected || !r.publish.siteExists(site) {
		return nil
	}
	cons, err := r.hub.JS.Consumer(ctx, streams.Desired, site)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		r.compareWhenCaughtUp(site)
		return nil
	}
	if err != nil {
		r.compareWhenCaughtUp(site)
		return fmt.Errorf("read consumer %s: %w", site, err)
	}
	if i := cons.CachedInfo(); i.NumPending > 0 || i.NumAckPending > 0 || !r.publish.siteIdle(site) {
		r.compareWhenCaughtUp(site)
		return nil
	}
	m := nats.NewMsg(streams.SyncSubject(site))
	m.Header.Set(streams.HeaderControl, streams.ControlVerify)
	if err := r.hub.Conn.PublishMsg(m); err != nil {
		r.compareWhenCaughtUp(site)
		return fmt.Errorf("ask site %s to compare: %w", site, err)
	}
	return nil
}
