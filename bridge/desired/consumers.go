package desired

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/bridge/hub"
	"github.com/petiole-io/petiole/streams"
)

// Consumers maintains the hub's streams of each Site and its consumer on DESIRED: it creates
// those that are missing, has the remains of deleted Sites removed, and deletes the tombstones
// that sites have acknowledged. Create it with NewConsumers. It is not safe for concurrent use.
type Consumers struct {
	reconciler *Reconciler
	streams    *siteStreams
	// ensured holds the sites whose consumer has the right configuration.
	ensured map[string]bool
}

// NewConsumers returns the Consumers of what a reconciler publishes. room is the room for the
// streams of all sites.
func NewConsumers(r *Reconciler, room hub.Room) *Consumers {
	return &Consumers{reconciler: r, streams: newSiteStreams(r, room), ensured: map[string]bool{}}
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
	if err := c.streams.list(ctx, sites); err != nil {
		return nil, listing, err
	}
	found = map[string]*jetstream.ConsumerInfo{}
	var errs []error
	for _, site := range slices.Sorted(maps.Keys(sites)) {
		info, err := c.reconcile(ctx, site, all[site])
		if err != nil {
			errs = append(errs, err)
		}
		if info != nil {
			found[site] = info
		}
	}
	return found, listing, errors.Join(errs...)
}

// StorageProblem implements site.Consumers.
func (c *Consumers) StorageProblem(site string) error { return c.streams.known[site].problem }

// StorageUsed implements site.Consumers.
func (c *Consumers) StorageUsed(site string) float64 { return c.streams.used[site].Fullest }

// TellWaiting implements site.Consumers.
func (c *Consumers) TellWaiting(site string) error {
	return c.reconciler.hub.Conn.PublishMsg(streams.Control(site, streams.ControlRequest))
}

// reconcile creates the streams and the consumer of a site if necessary, and deletes the
// tombstones that the site has acknowledged. info is nil if there is no consumer. A site without
// streams has its consumer, and so its desired state.
func (c *Consumers) reconcile(ctx context.Context, site string, info *jetstream.ConsumerInfo) (*jetstream.ConsumerInfo, error) {
	if info == nil {
		// The consumer is the last that is removed of a site.
		c.streams.forget(site)
	}
	refused := c.streams.ensure(ctx, site)
	if info == nil || !c.ensured[site] {
		if err := streams.EnsureConsumer(ctx, c.reconciler.hub.JS, streams.Desired, streams.SiteConsumer(site)); err != nil {
			return nil, errors.Join(refused, err)
		}
		c.ensured[site] = true
		cons, err := c.reconciler.hub.Desired.Consumer(ctx, site)
		if err != nil {
			return nil, errors.Join(refused, fmt.Errorf("read consumer %s: %w", site, err))
		}
		info = cons.CachedInfo()
	}
	if err := c.reconciler.expireTombstones(ctx, site, info.AckFloor.Stream); err != nil {
		return nil, errors.Join(refused, err)
	}
	return info, refused
}
