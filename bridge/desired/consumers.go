package desired

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/streams"
)

// Consumers maintains the hub's streams of each Site and its consumer on DESIRED: it creates
// those that are missing, has the remains of deleted Sites removed, and deletes the tombstones
// that sites have acknowledged. Create it with NewConsumers. It is not safe for concurrent use.
type Consumers struct {
	reconciler *Reconciler
	limits     streams.SiteLimits
	// ensured holds the sites whose streams and consumer have the right configuration.
	ensured map[string]bool
}

// NewConsumers returns the Consumers of what a reconciler publishes. The limits are those of each
// site's streams.
func NewConsumers(r *Reconciler, limits streams.SiteLimits) *Consumers {
	return &Consumers{reconciler: r, limits: limits, ensured: map[string]bool{}}
}

// Reconcile implements site.Consumers. It returns hub.ErrReplaced if the streams are no longer
// those that were loaded.
func (c *Consumers) Reconcile(ctx context.Context) (found map[string]*jetstream.ConsumerInfo, listing time.Duration, err error) {
	if err := c.reconciler.hub.CheckSame(ctx); err != nil {
		return nil, 0, err
	}
	start := time.Now()
	all := map[string]*jetstream.ConsumerInfo{}
	list := c.reconciler.hub.Desired.ListConsumers(ctx)
	for info := range list.Info() {
		all[info.Name] = info
	}
	listing = time.Since(start)
	if err := list.Err(); err != nil {
		return nil, listing, fmt.Errorf("list consumers of %s: %w", streams.Desired, err)
	}
	sites := c.reconciler.NodesBySite()
	for name, info := range all {
		if _, ok := sites[name]; !ok && info.Config.FilterSubject == streams.DesiredFilter(name) {
			c.reconciler.retire(name)
		}
	}
	maps.DeleteFunc(c.ensured, func(site string, _ bool) bool { _, ok := sites[site]; return !ok })
	found = map[string]*jetstream.ConsumerInfo{}
	var errs []error
	for site := range sites {
		info, err := c.reconcile(ctx, site, all[site])
		if err != nil {
			errs = append(errs, err)
			continue
		}
		found[site] = info
	}
	return found, listing, errors.Join(errs...)
}

// reconcile creates the streams and the consumer of a site if necessary, and deletes the tombstones that the
// site has acknowledged. info is nil if there is no consumer.
func (c *Consumers) reconcile(ctx context.Context, site string, info *jetstream.ConsumerInfo) (*jetstream.ConsumerInfo, error) {
	if info == nil || !c.ensured[site] {
		if err := streams.Ensure(ctx, c.reconciler.hub.JS, streams.SiteStreams(site, c.limits)); err != nil {
			return nil, err
		}
		if err := streams.EnsureConsumer(ctx, c.reconciler.hub.JS, streams.Desired, streams.SiteConsumer(site)); err != nil {
			return nil, err
		}
		c.ensured[site] = true
		cons, err := c.reconciler.hub.Desired.Consumer(ctx, site)
		if err != nil {
			return nil, fmt.Errorf("read consumer %s: %w", site, err)
		}
		info = cons.CachedInfo()
	}
	return info, c.reconciler.expireTombstones(ctx, site, info.AckFloor.Stream)
}
