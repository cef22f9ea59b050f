package antientropy

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"

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
	// MaxResyncValue bounds the value of the annotation, in bytes, because the status repeats
	// it.
	MaxResyncValue = 1024
)

// Cache returns the last known state of an object, nil if there is none.
type Cache interface {
	Get(k kube.Key) *unstructured.Unstructured
}

// Sites knows which Sites exist, and for which nothing is being published or waits to be.
type Sites interface {
	SiteExists(site string) bool
	SiteIdle(site string) bool
}

// Config is what a Resyncer needs.
type Config struct {
	Hub      *hub.Hub
	Cache    Cache
	Sites    Sites
	Liveness *liveness.Tracker
	States   *States
	Fence    *lease.Fence
	Log      *zap.Logger
	// Report is called with the result of each round.
	Report func(error)
}

// Resyncer carries out full resyncs: it resets the hub's consumer of a site to the first
// message, whether the site is connected or not. Once the site has acknowledged everything, it
// is asked to compare its inventory, which finds what it should not have.
type Resyncer struct {
	cfg Config
	now func() time.Time

	mu sync.Mutex
	// annotated are Sites whose annotation must be checked, mismatched those that differed
	// repeatedly, toCompare those to ask for a comparison.
	annotated, mismatched, toCompare map[string]bool

	// rejected holds the Sites with an invalid annotation. Only Run uses it.
	rejected map[string]bool
}

// NewResyncer returns a resyncer that has not started.
func NewResyncer(cfg Config) *Resyncer {
	return &Resyncer{cfg: cfg, annotated: map[string]bool{}, mismatched: map[string]bool{}, toCompare: map[string]bool{}, rejected: map[string]bool{}, now: time.Now}
}

// AnnotationChanged schedules a check of a Site's annotation. It does not block.
func (r *Resyncer) AnnotationChanged(site string) { r.add(r.annotated, site) }

// MismatchRepeated schedules a resync of a site that still differed after a repair.
func (r *Resyncer) MismatchRepeated(site string) { r.add(r.mismatched, site) }

// CompareWhenCaughtUp asks a site to compare its inventory when it has caught up.
func (r *Resyncer) CompareWhenCaughtUp(site string) { r.add(r.toCompare, site) }

func (r *Resyncer) add(in map[string]bool, site string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	in[site] = true
}

// drain empties a set and returns its sites.
func (r *Resyncer) drain(from map[string]bool) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	sites := make([]string, 0, len(from))
	for s := range from {
		sites = append(sites, s)
	}
	clear(from)
	return sites
}

// Run works until ctx ends.
func (r *Resyncer) Run(ctx context.Context) {
	_ = wait.PollUntilContextCancel(ctx, resyncInterval, true, func(ctx context.Context) (bool, error) { // until ctx ends
		r.round(ctx)
		return false, nil
	})
}

// round carries out what has been scheduled.
func (r *Resyncer) round(ctx context.Context) {
	var errs []error
	for _, site := range r.drain(r.annotated) {
		if err := r.resyncRequested(ctx, site); err != nil {
			r.AnnotationChanged(site)
			errs = append(errs, err)
		}
	}
	for _, site := range r.drain(r.mismatched) {
		if err := r.resyncMismatched(ctx, site); err != nil {
			r.MismatchRepeated(site)
			errs = append(errs, err)
		}
	}
	for _, site := range r.drain(r.toCompare) {
		if err := r.requestComparison(ctx, site); err != nil {
			errs = append(errs, err)
		}
	}
	if ctx.Err() == nil {
		r.cfg.Report(errors.Join(errs...))
	}
}

// resyncRequested carries out the resync that a Site's annotation requests, once per value.
func (r *Resyncer) resyncRequested(ctx context.Context, site string) error {
	o := r.cfg.Cache.Get(kube.SiteKey(site))
	if o == nil {
		r.cfg.States.Forget(site)
		delete(r.rejected, site)
		return nil
	}
	value := o.GetAnnotations()[v1alpha1.ResyncAnnotation]
	if len(value) > MaxResyncValue {
		if !r.rejected[site] {
			r.cfg.Log.Warn("resync rejected, the value of the annotation is too long", zap.String("site", site), zap.Int("bytes", len(value)), zap.Int("limit", MaxResyncValue))
		}
		r.rejected[site] = true
		return nil
	}
	delete(r.rejected, site)
	if value == "" || value == r.cfg.States.Get(site).ResyncRequested || value == kube.StringAt(o, "status", "resync", "requested") {
		return nil
	}
	return r.resync(ctx, site, ResyncRequested, value)
}

func (r *Resyncer) resyncMismatched(ctx context.Context, site string) error {
	if last := r.cfg.States.Get(site).Resynced; !last.IsZero() && r.now().Sub(last) < resyncSpacing {
		return nil
	}
	return r.resync(ctx, site, ResyncMismatch, "")
}

// resync resets the site's consumer. If there is none, it will start at the first message when
// it is created.
func (r *Resyncer) resync(ctx context.Context, site, reason, value string) error {
	if err := r.cfg.Fence.Check(); err != nil {
		return err
	}
	if !r.cfg.Sites.SiteExists(site) {
		return nil
	}
	_, err := r.cfg.Hub.JS.ResetConsumerToSequence(ctx, streams.Desired, site, 1)
	if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return fmt.Errorf("resync site %s: %w", site, err)
	}
	r.cfg.Log.Info("full resync started", zap.String("site", site), zap.String("reason", reason))
	r.cfg.States.Resynced(site, r.now(), reason, value)
	r.CompareWhenCaughtUp(site)
	return nil
}

// requestComparison asks a site to compare its inventory if the site has acknowledged
// everything. A site that is not connected is asked later: its leaf compares by itself when it
// reconnects, but a bridge that has just started does not know yet that it is connected.
func (r *Resyncer) requestComparison(ctx context.Context, site string) error {
	if !r.cfg.Sites.SiteExists(site) {
		return nil
	}
	if connected, _, _ := r.cfg.Liveness.State(site); !connected {
		r.CompareWhenCaughtUp(site)
		return nil
	}
	cons, err := r.cfg.Hub.JS.Consumer(ctx, streams.Desired, site)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		r.CompareWhenCaughtUp(site)
		return nil
	}
	if err != nil {
		r.CompareWhenCaughtUp(site)
		return fmt.Errorf("read consumer %s: %w", site, err)
	}
	if i := cons.CachedInfo(); i.NumPending > 0 || i.NumAckPending > 0 || !r.cfg.Sites.SiteIdle(site) {
		r.CompareWhenCaughtUp(site)
		return nil
	}
	if err := r.cfg.Hub.Conn.PublishMsg(streams.Control(site, streams.ControlVerify)); err != nil {
		r.CompareWhenCaughtUp(site)
		return fmt.Errorf("ask site %s to compare: %w", site, err)
	}
	return nil
}
