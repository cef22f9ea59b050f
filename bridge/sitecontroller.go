package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/petiole-io/petiole/bridge/antientropy"
	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/bridge/hub"
	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/bridge/liveness"
	"github.com/petiole-io/petiole/streams"
)

const (
	// roundInterval is the time between two rounds.
	roundInterval = 2 * time.Second
	// minRoundSpacing is the minimum time between two rounds.
	minRoundSpacing = 200 * time.Millisecond
)

// siteController maintains a durable consumer for each Site, reads each site's position, and
// updates the Site's status, its Events and its metrics.
type siteController struct {
	hub        *hub.Hub
	clients    *kube.Clients
	cache      objectCache
	publish    *publisher
	liveness   *liveness.Tracker
	syncStates *antientropy.States
	duplicates *liveness.DuplicateDetector
	events     *siteEvents
	metrics    *siteMetrics
	count      *counters
	log        *zap.Logger
	outage     *outage
	// leadership returns the present epoch and term.
	leadership func() (epoch string, term uint64)
	// triggered starts a round at once.
	triggered chan struct{}

	ensured map[string]bool
	written map[string]siteWrite
}

// siteWrite is the state of this bridge's writes to one Site.
type siteWrite struct {
	uid types.UID
	// at is the time of the last write of the status, zero if there was none.
	at time.Time
	// mismatches is the count of earlier bridges.
	mismatches int64
}

// trigger starts a round at once. It does not block.
func (s *siteController) trigger() {
	select {
	case s.triggered <- struct{}{}:
	default:
	}
}

// run makes rounds until ctx ends. With many sites the interval grows, so that the hub spends
// at most a tenth of the time on listing consumers, and rounds take at most half of it.
func (s *siteController) run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.triggered:
		case <-timer.C:
		}
		start := time.Now()
		listing, err := s.round(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, hub.ErrReplaced) {
			return err
		}
		s.outage.report(err)
		if err == nil {
			s.count.siteRounds.Add(1)
		}
		rest := max(minRoundSpacing, 10*listing, time.Since(start))
		timer.Reset(max(roundInterval, rest))
		if !sleep(ctx, rest) {
			return nil
		}
	}
}

// round reconciles every site once. It returns the time that listing the consumers took.
func (s *siteController) round(ctx context.Context) (listing time.Duration, err error) {
	if err := s.hub.CheckSame(ctx); err != nil {
		return 0, err
	}
	start := time.Now()
	found := map[string]*jetstream.ConsumerInfo{}
	list := s.hub.Desired.ListConsumers(ctx)
	for info := range list.Info() {
		found[info.Name] = info
	}
	listing = time.Since(start)
	if err := list.Err(); err != nil {
		return listing, fmt.Errorf("list consumers of %s: %w", streams.Desired, err)
	}
	sites := s.publish.nodesBySite()
	for name, info := range found {
		if _, ok := sites[name]; !ok && info.Config.FilterSubject == streams.DesiredFilter(name) {
			s.publish.retire(name)
		}
	}
	s.retain(func(site string) bool { _, ok := sites[site]; return ok })
	var errs []error
	for site, nodes := range sites {
		if err := s.reconcile(ctx, site, nodes, found[site]); err != nil {
			errs = append(errs, err)
		}
	}
	return listing, errors.Join(append(errs, s.events.flush(ctx))...)
}

// retain drops the state of sites that no longer exist.
func (s *siteController) retain(exists func(site string) bool) {
	s.metrics.retain(exists)
	s.liveness.Retain(exists)
	s.syncStates.Retain(exists)
	s.duplicates.Retain(exists)
	maps.DeleteFunc(s.ensured, func(site string, _ bool) bool { return !exists(site) })
	maps.DeleteFunc(s.written, func(site string, _ siteWrite) bool { return !exists(site) })
}

func (s *siteController) reconcile(ctx context.Context, site string, nodes []string, info *jetstream.ConsumerInfo) error {
	if info == nil || !s.ensured[site] {
		if err := streams.EnsureConsumer(ctx, s.hub.JS, streams.Desired, streams.SiteConsumer(site)); err != nil {
			return err
		}
		s.ensured[site] = true
		cons, err := s.hub.Desired.Consumer(ctx, site)
		if err != nil {
			return fmt.Errorf("read consumer %s: %w", site, err)
		}
		info = cons.CachedInfo()
	}
	if err := s.publish.expireTombstones(ctx, site, info.AckFloor.Stream); err != nil {
		return err
	}
	return s.updateStatus(ctx, site, nodes, info)
}

// updateStatus updates the Site's status, its Events and its metrics.
func (s *siteController) updateStatus(ctx context.Context, site string, nodes []string, info *jetstream.ConsumerInfo) error {
	o := s.cache.Get(kube.Key{Group: kube.SiteGroup, Resource: "sites", Name: site})
	if o == nil {
		return nil
	}
	var served v1alpha1.Site
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &served); err != nil {
		return fmt.Errorf("read site %s: %w", site, err)
	}
	w := s.written[site]
	if w.uid != o.GetUID() {
		w = siteWrite{uid: o.GetUID(), mismatches: served.Status.Mismatches}
		s.written[site] = w
	}
	seen, err := s.collect(ctx, &served, nodes, info)
	if err != nil {
		return err
	}
	seen.earlierMismatches = w.mismatches
	status := seen.status(served.Status)
	s.metrics.set(site, status)
	if !statusDue(served.Status, status, w.at, seen.now) {
		return nil
	}
	if err := s.patchStatus(ctx, o, &status); errors.Is(err, errStatusMoved) {
		return nil
	} else if err != nil {
		return err
	}
	w.at = seen.now
	s.written[site] = w
	s.events.add(o, seen.now, eventsOf(served.Status, status))
	return nil
}

// collect gathers the present state of a site.
func (s *siteController) collect(ctx context.Context, o *v1alpha1.Site, nodes []string, info *jetstream.ConsumerInfo) (observation, error) {
	seen := observation{
		now: time.Now(), created: o.CreationTimestamp.Time, nodes: len(nodes), unobserved: s.unobserved(nodes),
		unpublished: !s.publish.SiteIdle(o.Name),
		pending:     info.NumPending + uint64(info.NumAckPending), lastAck: info.AckFloor.Last, stored: info.AckFloor.Stream,
		duplicate: s.duplicates.LastSeen(o.Name), sync: s.syncStates.Get(o.Name),
	}
	seen.connected, seen.since, seen.last = s.liveness.State(o.Name)
	seen.epoch, seen.term = s.leadership()
	if seen.pending == 0 {
		return seen, nil
	}
	var err error
	seen.oldest, err = s.oldestPending(ctx, o.Name, info.AckFloor.Stream)
	return seen, err
}

// oldestPending returns when the oldest object that the site has not stored was published.
func (s *siteController) oldestPending(ctx context.Context, site string, floor uint64) (*time.Time, error) {
	msg, err := s.hub.Desired.GetMsg(ctx, floor+1, jetstream.WithGetMsgSubject(streams.DesiredFilter(site)))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read oldest pending of site %s: %w", site, err)
	}
	return &msg.Time, nil
}

// errStatusMoved reports that the Site has changed since it was read. The next round reads it
// again.
var errStatusMoved = errors.New("site was changed by another writer")

// patchStatus writes the differences to the served object: a field that is not there yet is
// written even if its value is zero. The resource version prevents a suspended bridge from
// overwriting what its successor wrote.
func (s *siteController) patchStatus(ctx context.Context, o *unstructured.Unstructured, status *v1alpha1.SiteStatus) error {
	site := o.GetName()
	was, err := json.Marshal(map[string]any{"status": o.Object["status"]})
	if err != nil {
		return fmt.Errorf("encode status of site %s: %w", site, err)
	}
	is, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": o.GetUID(), "resourceVersion": o.GetResourceVersion()}, "status": status,
	})
	if err != nil {
		return fmt.Errorf("encode status of site %s: %w", site, err)
	}
	patch, err := kube.MergePatch(was, is)
	if err != nil {
		return fmt.Errorf("compare status of site %s: %w", site, err)
	}
	_, err = s.clients.Dynamic.Resource(v1alpha1.Sites).Patch(ctx, site, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	switch {
	case apierrors.IsNotFound(err), apierrors.IsConflict(err):
		return errStatusMoved // deleted, recreated or newer than the informer's copy; that change will arrive
	case err != nil:
		return fmt.Errorf("write status of site %s: %w", site, err)
	}
	return nil
}

// siteStatusOf returns the connection state that an earlier bridge wrote.
func siteStatusOf(o *unstructured.Unstructured) (connected bool, since time.Time) {
	var site v1alpha1.Site
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &site); err != nil || site.Status.Since == nil {
		return false, time.Time{}
	}
	return site.Status.Connected, site.Status.Since.Time
}
