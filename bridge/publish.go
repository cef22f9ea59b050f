package bridge

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/util/workqueue"

	"github.com/petiole-io/petiole/bridge/closure"
	"github.com/petiole-io/petiole/bridge/hub"
	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/bridge/lease"
	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/inventory"
)

var (
	// errConcurrentWrite reports that the hub holds another message than the cache says. The
	// cache has been updated; the caller retries.
	errConcurrentWrite = errors.New("changed by another writer")
	// errStaleCache reports that the informer's copy of an object is older than the published
	// version. The caller retries when the informer has caught up.
	errStaleCache = errors.New("the informer is behind what was published")
)

// objectCache holds the objects of the API server that the bridge watches.
type objectCache interface {
	// Get returns the last known state of an object, nil if there is none. The caller must not
	// change it.
	Get(k kube.Key) *unstructured.Unstructured
	// Keys returns the keys of all known objects.
	Keys() []kube.Key
}

// storageCheck detects that the API server's storage was rolled back.
type storageCheck interface {
	// Wait blocks until the storage has been checked since the API server last answered a list
	// or started a watch. It returns an error only when ctx ends.
	Wait(ctx context.Context) error
	// AddCandidate takes an object whose copy is older than its published version: a rollback
	// may be the reason. It does not block.
	AddCandidate(k kube.Key, uid, published string)
}

// publisher makes DESIRED equal to what each site needs. Changed objects arrive through
// enqueue; one worker applies them to the closure, and several workers publish sites. One
// worker at a time publishes a site, and publishes what a pod needs before the pod.
type publisher struct {
	hub     *hub.Hub
	cache   *encodeCache
	storage storageCheck
	fence   *lease.Fence
	epoch   string
	log     *zap.Logger
	count   *counters

	objects workqueue.TypedRateLimitingInterface[kube.Key]
	queue   workqueue.TypedRateLimitingInterface[string]

	mu      sync.Mutex
	closure *closure.Index
	desired *desiredCache
	dirty   map[string]*dirtySite
	// publishing holds the sites that a worker publishes at present.
	publishing map[string]bool
	// retired holds the sites that have a consumer at the hub but had no Site object when this
	// was checked.
	retired map[string]bool
}

// dirtySite is the pending work for a site.
type dirtySite struct {
	recompute bool
	keys      sets.Set[kube.Key]
	// force holds objects to publish even if they have not changed.
	force sets.Set[kube.Key]
	// extra maps subjects to entries that the site has and should not have.
	extra map[string]inventory.Entry
}

func newPublisher(cache objectCache, check storageCheck, f *lease.Fence, count *counters, metrics *instruments, log *zap.Logger) *publisher {
	return &publisher{
		cache: newEncodeCache(cache), storage: check, fence: f, log: log, count: count, closure: closure.New(), desired: newDesiredCache(),
		dirty: map[string]*dirtySite{}, publishing: map[string]bool{}, retired: map[string]bool{},
		objects: newQueue[kube.Key](metrics, "objects", publishRetry),
		queue:   newQueue[string](metrics, "sites", publishRetry),
	}
}

// enqueue schedules an object to be indexed.
func (p *publisher) enqueue(k kube.Key) { p.objects.Add(k) }

// load indexes the existing objects, takes over the content of DESIRED, and marks every site
// dirty.
func (p *publisher) load(h *hub.Hub, epoch string, stored *desiredCache) {
	p.hub, p.epoch = h, epoch
	for _, k := range p.cache.Keys() {
		p.index(k)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.desired = stored
	for site := range p.closure.Sites() {
		p.markDirty(site).recompute = true
	}
	for site, objects := range stored.sites {
		d := p.markDirty(site)
		for k := range objects {
			d.keys.Insert(k)
		}
	}
}

// run publishes until ctx ends.
func (p *publisher) run(ctx context.Context, workers int) {
	var wg sync.WaitGroup
	wg.Go(func() {
		<-ctx.Done()
		p.objects.ShutDown()
		p.queue.ShutDown()
	})
	wg.Go(func() {
		for k, down := p.objects.Get(); !down; k, down = p.objects.Get() {
			p.index(k)
			p.objects.Done(k)
		}
	})
	for range workers {
		wg.Go(func() {
			for site, down := p.queue.Get(); !down; site, down = p.queue.Get() {
				p.process(ctx, site)
				p.queue.Done(site)
			}
		})
	}
	wg.Wait()
}

func (p *publisher) process(ctx context.Context, site string) {
	err := p.publishSite(ctx, site)
	switch {
	case err == nil:
		p.queue.Forget(site)
	case ctx.Err() != nil:
	default:
		if p.queue.NumRequeues(site) == 0 && !errors.Is(err, errConcurrentWrite) && !errors.Is(err, errStaleCache) {
			p.log.Warn("publishing interrupted, retrying", zap.String("site", site), zap.Error(err))
		}
		p.queue.AddRateLimited(site)
	}
}

// index applies the present state of an object to the closure and marks the affected sites
// dirty.
func (p *publisher) index(k kube.Key) {
	o := p.cache.Get(k)
	var f closure.Dependencies
	if o != nil {
		var err error
		if f, err = closure.DependenciesOf(k, o); err != nil {
			p.log.Error("cannot decode object, its references are ignored", zap.Stringer("object", k.Ref("")), zap.Error(err))
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var sites []string
	if o != nil {
		sites = p.closure.Set(k, f)
	} else {
		sites = p.closure.Remove(k)
	}
	for _, s := range sites {
		p.markDirty(s).recompute = true
	}
	for _, s := range p.closure.Wanting(k) {
		p.markDirty(s).keys.Insert(k)
	}
}

// markDirty schedules a site and returns its pending work. The caller holds the lock.
func (p *publisher) markDirty(site string) *dirtySite {
	p.queue.Add(site)
	return p.dirtySite(site)
}

func (p *publisher) dirtySite(site string) *dirtySite {
	d := p.dirty[site]
	if d == nil {
		d = &dirtySite{keys: sets.Set[kube.Key]{}, force: sets.Set[kube.Key]{}, extra: map[string]inventory.Entry{}}
		p.dirty[site] = d
	}
	return d
}

// restoreTasks puts tasks back that could not be done. The caller schedules the site again.
func (p *publisher) restoreTasks(site string, left []task) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(left) == 0 {
		return
	}
	d := p.dirtySite(site)
	for _, t := range left {
		if t.extra != nil {
			d.extra[t.extra.Subject] = *t.extra
			continue
		}
		d.keys.Insert(t.key)
		if t.force {
			d.force.Insert(t.key)
		}
	}
}

// task is one object to update at a site.
type task struct {
	key    kube.Key
	node   string
	wanted bool
	// force publishes the object even if it has not changed.
	force bool
	// extra is an entry that the site has on a subject that should be empty.
	extra *inventory.Entry
}

// plan takes the pending work of a site, in the order of publication, and marks the site as
// being published. known is false if there is no such Site.
func (p *publisher) plan(site string) (tasks []task, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := p.dirty[site]
	delete(p.dirty, site)
	p.publishing[site] = true
	if !p.closure.Exists(site) {
		p.closure.Recompute(site)
		return nil, false
	}
	delete(p.retired, site) // the Site was created again
	if d == nil {
		return nil, true
	}
	if d.recompute {
		changed, dropped := p.closure.Recompute(site)
		for _, k := range append(changed, dropped...) {
			d.keys.Insert(k)
		}
	}
	for k := range d.keys {
		node, wanted := p.closure.Node(site, k)
		tasks = append(tasks, task{key: k, node: node, wanted: wanted, force: d.force.Has(k)})
	}
	for _, e := range d.extra {
		tasks = append(tasks, task{extra: &e})
	}
	slices.SortFunc(tasks, func(a, b task) int {
		return cmp.Or(cmp.Compare(a.key.Rank(), b.key.Rank()), strings.Compare(a.key.Namespace, b.key.Namespace), strings.Compare(a.key.Name, b.key.Name))
	})
	return tasks, true
}

func (p *publisher) publishSite(ctx context.Context, site string) error {
	tasks, known := p.plan(site)
	defer p.finish(site)
	if !known {
		return p.removeSite(ctx, site)
	}
	var left []task
	var behind error
	for i, t := range tasks {
		err := p.execute(ctx, site, t)
		if errors.Is(err, errStaleCache) {
			left, behind = append(left, t), err
			continue // the other tasks do not depend on it
		}
		if err != nil {
			tasks[i].force = t.force || errors.Is(err, errResurrected)
			p.restoreTasks(site, append(left, tasks[i:]...))
			return err
		}
	}
	p.restoreTasks(site, left)
	return behind
}

func (p *publisher) execute(ctx context.Context, site string, t task) error {
	if t.extra != nil {
		return p.deleteExtra(ctx, site, *t.extra)
	}
	return p.publishObject(ctx, site, t)
}

// finish marks a site as no longer being published.
func (p *publisher) finish(site string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.publishing, site)
}

// retire schedules the removal of everything that is left of a site, unless its Site exists
// again by then.
func (p *publisher) retire(site string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.retired[site] = true
	p.markDirty(site)
}

// removeSite removes everything that is left of a site without a Site object. It runs in the
// worker that holds the site, so that a Site that is created again meanwhile is published
// afterwards.
func (p *publisher) removeSite(ctx context.Context, site string) error {
	p.mu.Lock()
	left := p.retired[site] || len(p.desired.sites[site]) > 0
	p.mu.Unlock()
	if !left {
		return nil
	}
	if err := p.fence.Check(); err != nil {
		return err
	}
	if err := streams.RemoveSite(ctx, p.hub.JS, site); err != nil {
		return err
	}
	p.mu.Lock()
	p.desired.removeSite(site)
	delete(p.retired, site)
	p.mu.Unlock()
	p.log.Info("site removed", zap.String("site", site))
	return nil
}

// nodesBySite returns the nodes of each existing Site.
func (p *publisher) nodesBySite() map[string][]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[string][]string{}
	for s := range p.closure.Sites() {
		out[s] = p.closure.Nodes(s)
	}
	return out
}

// nodesOf returns the nodes of a site.
func (p *publisher) NodesOf(site string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closure.Nodes(site)
}

// siteExists reports whether a Site with that name exists.
func (p *publisher) SiteExists(site string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closure.Exists(site)
}

// siteOf returns the site of a node, empty if the node is unknown or belongs to no site.
func (p *publisher) SiteOf(node string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closure.SiteOf(node)
}

// podsOn returns the pods bound to a node.
func (p *publisher) PodsOn(node string) []kube.Key {
	p.mu.Lock()
	defer p.mu.Unlock()
	var pods []kube.Key
	for k := range p.closure.Bound(node) {
		if k.Resource == "pods" {
			pods = append(pods, k)
		}
	}
	return pods
}

// BoundTo returns the pods and devices of the nodes.
func (p *publisher) BoundTo(nodes []string) []kube.Key {
	p.mu.Lock()
	defer p.mu.Unlock()
	var keys []kube.Key
	for _, n := range nodes {
		for k := range p.closure.Bound(n) {
			keys = append(keys, k)
		}
	}
	return keys
}
