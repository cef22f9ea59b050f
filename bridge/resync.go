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
	"github.com/petiole-io/petiole/streams"
)

const (
	// resyncInterval is how often what waits is tried again.
	resyncInterval = time.Second
	// resyncSpacing is how soon after a resync a site is resynced again without being
	// asked to by people.
	resyncSpacing = 10 * time.Minute
	// maxResyncValue bounds the value of the annotation, in bytes: the status repeats it.
	maxResyncValue = 1024
)

// resyncs has sites take everything anew: the hub's consumer of the site begins again at
// the first message, whether the site is there or not. When the site has acknowledged
// it all it is told to compare its manifest, which finds what it should not have.
type resyncs struct {
	hub      *hub
	watch    *watch
	publish  *publisher
	presence *presence
	repairs  *repairs
	fence    *fence
	log      *zap.Logger
	count    *counters
	outage   *outage
	now      func() time.Time

	mu sync.Mutex
	// touched are Sites whose annotation is to be looked at, mismatched those that
	// differed again and again, verify those to tell to compare.
	touched, mismatched, verify map[string]bool

	// refused are Sites whose annotation is not carried out; only run uses it.
	refused map[string]bool
}

func newResyncs() *resyncs {
	return &resyncs{touched: map[string]bool{}, mismatched: map[string]bool{}, verify: map[string]bool{}, refused: map[string]bool{}, now: time.Now}
}

// changed looks at the annotation of a Site. It does not block.
func (r *resyncs) changed(site string) { r.note(r.touched, site) }

// repeated notes that a site differed although what differed was published again.
func (r *resyncs) repeated(site string) { r.note(r.mismatched, site) }

// check tells a site to compare its manifest when it has caught up.
func (r *resyncs) check(site string) { r.note(r.verify, site) }

func (r *resyncs) note(in map[string]bool, site string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	in[site] = true
}

// take empties a set.
func (r *resyncs) take(from map[string]bool) []string {
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
func (r *resyncs) run(ctx context.Context) error {
	for pause(ctx, resyncInterval) {
		var errs []error
		for _, site := range r.take(r.touched) {
			if err := r.requested(ctx, site); err != nil {
				r.changed(site)
				errs = append(errs, err)
			}
		}
		for _, site := range r.take(r.mismatched) {
			if err := r.automatic(ctx, site); err != nil {
				r.repeated(site)
				errs = append(errs, err)
			}
		}
		for _, site := range r.take(r.verify) {
			if err := r.tell(ctx, site); err != nil {
				errs = append(errs, err)
			}
		}
		if ctx.Err() == nil {
			r.outage.report(errors.Join(errs...))
		}
	}
	return nil
}

// requested carries out what the Site's annotation asks for, once for each value.
func (r *resyncs) requested(ctx context.Context, site string) error {
	o := r.watch.get(objectKey{Group: siteGroup, Resource: "sites", Name: site})
	if o == nil {
		r.repairs.forget(site)
		delete(r.refused, site)
		return nil
	}
	value := o.GetAnnotations()[v1alpha1.ResyncAnnotation]
	if len(value) > maxResyncValue {
		if !r.refused[site] {
			r.log.Warn("resync refused, the value of the annotation is too long", zap.String("site", site), zap.Int("bytes", len(value)), zap.Int("most", maxResyncValue))
		}
		r.refused[site] = true
		return nil
	}
	delete(r.refused, site)
	if value == "" || value == r.repairs.of(site).ResyncRequested || value == text(o, "status", "resync", "requested") {
		return nil
	}
	return r.resync(ctx, site, ResyncRequested, value)
}

func (r *resyncs) automatic(ctx context.Context, site string) error {
	if last := r.repairs.of(site).Resynced; !last.IsZero() && r.now().Sub(last) < resyncSpacing {
		return nil
	}
	return r.resync(ctx, site, ResyncMismatch, "")
}

// resync resets the site's consumer. One that is not there begins at the first message
// when it is made.
func (r *resyncs) resync(ctx context.Context, site, reason, value string) error {
	if err := r.fence.check(); err != nil {
		return err
	}
	if !r.publish.siteExists(site) {
		return nil
	}
	_, err := r.hub.js.ResetConsumerToSequence(ctx, streams.Desired, site, 1)
	if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return fmt.Errorf("resync site %s: %w", site, err)
	}
	r.log.Info("site takes everything anew", zap.String("site", site), zap.String("reason", reason))
	r.count.resyncs.Add(1)
	r.repairs.update(site, func(s *siteRepair) {
		s.Resynced, s.ResyncReason = r.now(), reason
		if value != "" {
			s.ResyncRequested = value
		}
	})
	r.check(site)
	return nil
}

// tell has a site compare when it has acknowledged all that there is. A site that is
// away compares by itself when it comes back.
func (r *resyncs) tell(ctx context.Context, site string) error {
	if connected, _, _ := r.presence.of(site); !connected || !r.publish.siteExists(site) {
		return nil
	}
	cons, err := r.hub.js.Consumer(ctx, streams.Desired, site)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		r.check(site)
		return nil
	}
	if err != nil {
		r.check(site)
		return fmt.Errorf("read consumer %s: %w", site, err)
	}
	if i := cons.CachedInfo(); i.NumPending > 0 || i.NumAckPending > 0 || !r.publish.settled(site) {
		r.check(site)
		return nil
	}
	m := nats.NewMsg(streams.SyncSubject(site))
	m.Header.Set(streams.HeaderControl, streams.ControlVerify)
	if err := r.hub.nc.PublishMsg(m); err != nil {
		r.check(site)
		return fmt.Errorf("tell site %s to compare: %w", site, err)
	}
	return nil
}
