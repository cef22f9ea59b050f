package site

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
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/petiole-io/petiole/bridge/accounts"
	"github.com/petiole-io/petiole/bridge/antientropy"
	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/bridge/bounds"
	"github.com/petiole-io/petiole/bridge/hub"
	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/bridge/liveness"
	"github.com/petiole-io/petiole/bridge/names"
	"github.com/petiole-io/petiole/streams"
)

const (
	// roundInterval is the time between two rounds.
	roundInterval = 2 * time.Second
	// minRoundSpacing is the minimum time between two rounds.
	minRoundSpacing = 200 * time.Millisecond
)

// Cache returns the last known state of an object, nil if there is none.
type Cache interface {
	Get(k kube.Key) *unstructured.Unstructured
}

// Sites knows the Sites and what belongs to them.
type Sites interface {
	SiteExists(site string) bool
	NodesOf(site string) []string
	// BoundTo returns the pods and devices of the nodes.
	BoundTo(nodes []string) []kube.Key
	// SiteIdle reports whether nothing is being published, or waits to be, for the site.
	SiteIdle(site string) bool
}

// Names decides which Site has which node name.
type Names interface {
	// Plan returns the names that a Site has from now on, and those that its spec lists and that
	// it cannot have. present are the names of its Nodes.
	Plan(s *v1alpha1.Site, present []string) (owned []string, refused []*names.Refusal)
}

// Consumers maintains the hub's streams and consumer of each Site.
type Consumers interface {
	// Reconcile creates and removes consumers as needed. It returns the consumers of the Sites,
	// nil if they could not be listed, and the time that listing them took. The error joins
	// those of single sites.
	Reconcile(ctx context.Context) (map[string]*jetstream.ConsumerInfo, time.Duration, error)
	// StorageProblem returns the reason for which the site has no streams for what it reports, or
	// not with the room that it should have; nil if it has them. StorageUsed returns the fraction
	// of their room that was used when they were last listed.
	StorageProblem(site string) error
	StorageUsed(site string) float64
	// TellWaiting tells the leaf of a connected site that deliveries wait which it has not
	// requested. It does not block.
	TellWaiting(site string) error
}

// Bounds know the names, the accounts and the traffic that a site has, and what was refused to it.
type Bounds struct {
	Names    Names
	Problems *bounds.Problems
	Traffic  *Traffic
	// Access returns the state of a Site's accounts at the hub. It returns false if there is none.
	Access func(site string) (accounts.State, bool)
	// Selected returns the condition of a Site that selects resources, false if it selects none.
	Selected func(site string, spec v1alpha1.SiteSpec) (metav1.Condition, bool)
	// Retain forgets the sites that no longer exist.
	Retain func(exists func(site string) bool)
}

// Config is what a Controller needs.
type Config struct {
	Desired    jetstream.Stream
	Clients    *kube.Clients
	Cache      Cache
	Sites      Sites
	Consumers  Consumers
	Liveness   *liveness.Tracker
	Duplicates *liveness.DuplicateDetector
	States     *antientropy.States
	Metrics    *Metrics
	Bounds     Bounds
	// Epoch and Term are those of this bridge, Identity its name.
	Epoch    string
	Term     uint64
	Identity string
	Log      *zap.Logger
	// OnRound is called with the result of each round.
	OnRound func(error)
}

// Controller reads the position of each site from its consumer, and updates the Site's status,
// its Events and its metrics. Create it with New.
type Controller struct {
	cfg    Config
	events *eventWriter
	// triggered starts a round at once.
	triggered chan struct{}
	written   map[string]siteWrite
	forgotten unrequested
}

// New returns a controller that has not started.
func New(cfg Config) *Controller {
	return &Controller{
		cfg: cfg, events: newEventWriter(cfg.Clients.Own, cfg.Identity, cfg.Log), triggered: make(chan struct{}, 1), written: map[string]siteWrite{},
		forgotten: unrequested{sites: map[string]unrequestedSite{}},
	}
}

// siteWrite is the state of this bridge's writes to one Site.
type siteWrite struct {
	uid types.UID
	// at is the time of the last write of the status, zero if there was none.
	at time.Time
	// mismatches is the count of earlier bridges.
	mismatches int64
}

// Trigger starts a round at once. It does not block.
func (c *Controller) Trigger() {
	select {
	case c.triggered <- struct{}{}:
	default:
	}
}

// Run makes rounds until ctx ends. With many sites the interval grows, so that the hub spends
// at most a tenth of the time on listing consumers, and rounds take at most half of it.
func (c *Controller) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var before time.Duration // that listing took in the round before
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.triggered:
		case <-timer.C:
		}
		start := time.Now()
		listing, err := c.round(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, hub.ErrReplaced) {
			return err
		}
		c.cfg.OnRound(err)
		// One slow answer is no sign of many sites.
		rest := max(minRoundSpacing, 10*min(listing, before), time.Since(start))
		before = listing
		timer.Reset(max(roundInterval, rest))
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(rest):
		}
	}
}

// round updates every site once. It returns the time that listing the consumers took.
func (c *Controller) round(ctx context.Context) (listing time.Duration, err error) {
	consumers, listing, err := c.cfg.Consumers.Reconcile(ctx)
	if consumers == nil {
		return listing, err
	}
	c.retain(c.cfg.Sites.SiteExists)
	errs := []error{err}
	for site, info := range consumers {
		errs = append(errs, c.updateStatus(ctx, site, info), c.tellWaiting(site, info))
	}
	return listing, errors.Join(append(errs, c.events.flush(ctx))...)
}

// tellWaiting tells the leaf of a site that deliveries wait, if it seems to have forgotten to request them.
func (c *Controller) tellWaiting(site string, info *jetstream.ConsumerInfo) error {
	connected, _, _ := c.cfg.Liveness.State(site)
	if !c.forgotten.tell(site, connected, info, time.Now()) {
		return nil
	}
	c.cfg.Log.Warn("deliveries wait for a connected site that does not request them, telling it", zap.String("site", site), zap.Uint64("waiting", info.NumPending))
	if err := c.cfg.Consumers.TellWaiting(site); err != nil {
		return fmt.Errorf("tell site %s that deliveries wait: %w", site, err)
	}
	return nil
}

// retain drops the state of sites that no longer exist.
func (c *Controller) retain(exists func(site string) bool) {
	c.cfg.Metrics.retain(exists)
	c.cfg.Liveness.Retain(exists)
	c.cfg.States.Retain(exists)
	c.cfg.Duplicates.Retain(exists)
	c.cfg.Bounds.Retain(exists)
	c.forgotten.retain(exists)
	maps.DeleteFunc(c.written, func(site string, _ siteWrite) bool { return !exists(site) })
}

// updateStatus updates the Site's status, its Events and its metrics.
func (c *Controller) updateStatus(ctx context.Context, site string, info *jetstream.ConsumerInfo) error {
	o := c.cfg.Cache.Get(kube.SiteKey(site))
	if o == nil {
		return nil
	}
	var served v1alpha1.Site
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &served); err != nil {
		return fmt.Errorf("read site %s: %w", site, err)
	}
	w := c.written[site]
	if w.uid != o.GetUID() {
		w = siteWrite{uid: o.GetUID(), mismatches: served.Status.Mismatches}
		c.written[site] = w
	}
	seen, err := c.collect(ctx, &served, info)
	if err != nil {
		return err
	}
	seen.earlierMismatches = w.mismatches
	status := seen.status(served.Status)
	access, known := c.cfg.Bounds.Access(site)
	applyAccess(&status, access, known, seen.now)
	meta.SetStatusCondition(&status.Conditions, storageCondition(c.cfg.Consumers.StorageProblem(site), seen.now))
	c.cfg.Bounds.Traffic.apply(site, served.Spec, &status, seen.now)
	c.applySelected(site, served.Spec, &status, seen.now)
	c.cfg.Metrics.set(site, status, c.cfg.Consumers.StorageUsed(site))
	if !statusDue(served.Status, status, w.at, seen.now) {
		return nil
	}
	if err := c.patchStatus(ctx, o, &status); errors.Is(err, errStatusMoved) {
		return nil
	} else if err != nil {
		return err
	}
	w.at = seen.now
	c.written[site] = w
	c.events.add(o, seen.now, eventsOf(served.Status, status))
	return nil
}

// applySelected sets the condition about the resources that a Site selects.
func (c *Controller) applySelected(site string, spec v1alpha1.SiteSpec, status *v1alpha1.SiteStatus, now time.Time) {
	cond, selects := c.cfg.Bounds.Selected(site, spec)
	if !selects {
		meta.RemoveStatusCondition(&status.Conditions, v1alpha1.ConditionResourcesSelected)
		return
	}
	cond.LastTransitionTime = *wireTime(now)
	meta.SetStatusCondition(&status.Conditions, cond)
}

// collect gathers the present state of a site.
func (c *Controller) collect(ctx context.Context, o *v1alpha1.Site, info *jetstream.ConsumerInfo) (observation, error) {
	nodes := c.cfg.Sites.NodesOf(o.Name)
	seen := observation{
		now: time.Now(), created: o.CreationTimestamp.Time, unobserved: c.unobserved(nodes),
		unpublished: !c.cfg.Sites.SiteIdle(o.Name),
		pending:     info.NumPending + uint64(info.NumAckPending), lastAck: info.AckFloor.Last, stored: info.AckFloor.Stream,
		duplicate: c.cfg.Duplicates.LastSeen(o.Name), sync: c.cfg.States.Get(o.Name),
	}
	seen.connected, seen.since, seen.last = c.cfg.Liveness.State(o.Name)
	seen.epoch, seen.term = c.cfg.Epoch, c.cfg.Term
	seen.nodes = c.collectNodes(o, nodes)
	if seen.pending == 0 {
		return seen, nil
	}
	var err error
	seen.oldest, err = c.oldestPending(ctx, o.Name, info.AckFloor.Stream)
	return seen, err
}

// collectNodes gathers the nodes of a site and their names, and what was refused to it.
func (c *Controller) collectNodes(o *v1alpha1.Site, nodes []string) nodesObservation {
	owned, refused := c.cfg.Bounds.Names.Plan(o, nodes)
	seen := nodesObservation{count: len(nodes), owned: owned}
	for _, r := range refused {
		c.cfg.Bounds.Problems.Add(o.Name, v1alpha1.ConditionNodesAccepted, r.Reason, r.Node, r.Error())
	}
	for _, n := range owned {
		c.cfg.Bounds.Problems.Solved(o.Name, v1alpha1.ConditionNodesAccepted, n)
	}
	for _, t := range []string{v1alpha1.ConditionNodesAccepted, v1alpha1.ConditionWithinLimits} {
		cond := condition(t, metav1.ConditionTrue, v1alpha1.ReasonAsExpected, normalMessages[t])
		if reason, message, present := c.cfg.Bounds.Problems.Present(o.Name, t); present {
			cond = condition(t, metav1.ConditionFalse, reason, message)
		}
		seen.conditions = append(seen.conditions, cond)
	}
	return seen
}

// oldestPending returns when the oldest object that the site has not stored was published.
func (c *Controller) oldestPending(ctx context.Context, site string, floor uint64) (*time.Time, error) {
	msg, err := c.cfg.Desired.GetMsg(ctx, floor+1, jetstream.WithGetMsgSubject(streams.DesiredFilter(site)))
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
func (c *Controller) patchStatus(ctx context.Context, o *unstructured.Unstructured, status *v1alpha1.SiteStatus) error {
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
	_, err = c.cfg.Clients.Dynamic.Resource(v1alpha1.Sites).Patch(ctx, site, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	switch {
	case apierrors.IsNotFound(err), apierrors.IsConflict(err):
		return errStatusMoved // deleted, recreated or newer than the informer's copy; that change will arrive
	case err != nil:
		return fmt.Errorf("write status of site %s: %w", site, err)
	}
	return nil
}

// Connection returns the connection state that an earlier bridge wrote.
func Connection(o *unstructured.Unstructured) (connected bool, since time.Time) {
	var site v1alpha1.Site
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &site); err != nil || site.Status.Since == nil {
		return false, time.Time{}
	}
	return site.Status.Connected, site.Status.Since.Time
}
