package desired

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
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

// Objects holds the objects of the API server that the bridge watches.
type Objects interface {
	// Get returns the last known state of an object, nil if there is none. The caller must not
	// change it.
	Get(k kube.Key) *unstructured.Unstructured
	// Keys returns the keys of all known objects.
	Keys() []kube.Key
	// Listed reports whether all objects of a key's resource are known.
	Listed(k kube.Key) bool
	// Watched reports whether a key's resource is watched and listed, so that an object that Get
	// does not return does not exist.
	Watched(k kube.Key) bool
}

// Storage detects that the API server's storage was rolled back.
type Storage interface {
	// Wait blocks until the storage has been checked since the API server last answered a list
	// or started a watch. It returns an error only when ctx ends.
	Wait(ctx context.Context) error
	// AddCandidate takes an object whose copy is older than its published version: a rollback
	// may be the reason. It does not block.
	AddCandidate(k kube.Key, uid, published string)
}

// Counters count what a Reconciler has done.
type Counters struct {
	// Published and Tombstones count messages stored in DESIRED, ExternalWrites the messages of
	// other bridges that were found in it.
	Published, Tombstones, ExternalWrites atomic.Uint64
}

// Config is what a Reconciler needs.
type Config struct {
	Hub     *hub.Hub
	Objects Objects
	Storage Storage
	Fence   *lease.Fence
	// Epoch is the present epoch of the API server's storage.
	Epoch    string
	Counters *Counters
	Log      *zap.Logger
	// Changed and Sites are the queues of objects to index and of sites to publish.
	Changed workqueue.TypedRateLimitingInterface[kube.Key]
	Sites   workqueue.TypedRateLimitingInterface[string]
	// Report is called with the result of each search for the messages of other bridges.
	Report func(error)
}

// Reconciler makes DESIRED equal to what each site needs. Changed objects arrive through
// Changed; one worker applies them to the closure, and several workers publish sites. One
// worker at a time publishes a site, and publishes what a pod needs before the pod. Create it
// with New.
type Reconciler struct {
	*writer
	log      *zap.Logger
	external *externalWrites

	changed workqueue.TypedRateLimitingInterface[kube.Key]
	queue   workqueue.TypedRateLimitingInterface[string]

	// The fields below belong to the lock of state.

	dirty map[string]*dirtySite
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

// insertEndpoints adds the EndpointSlices among the objects of the site.
func (d *dirtySite) insertEndpoints(objects map[kube.Key]map[string]entry) {
	for k := range objects {
		if k.IsEndpointSlice() {
			d.keys.Insert(k)
		}
	}
}

// New returns a reconciler that has not started.
func New(cfg Config) *Reconciler {
	r := &Reconciler{
		writer: &writer{
			state: &state{closure: closure.New(), desired: newCache()}, hub: cfg.Hub, objects: newEncodeCache(cfg.Objects),
			storage: cfg.Storage, fence: cfg.Fence, epoch: cfg.Epoch, counters: cfg.Counters,
		},
		log: cfg.Log, changed: cfg.Changed, queue: cfg.Sites, dirty: map[string]*dirtySite{}, publishing: map[string]bool{}, retired: map[string]bool{},
	}
	r.external = &externalWrites{reconciler: r, report: cfg.Report}
	return r
}

// Changed schedules an object to be indexed after a delay. It does not block.
func (r *Reconciler) Changed(k kube.Key, delay time.Duration) { r.changed.AddAfter(k, delay) }

// Load indexes the existing objects, takes over the content of DESIRED, and marks every site
// dirty. It is called once, before Run.
func (r *Reconciler) Load(stored *Stored) {
	r.external.lastSeq = stored.lastSeq
	for _, k := range r.objects.Keys() {
		r.index(k)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.desired = stored.cache
	for site := range r.closure.Sites() {
		r.markDirty(site).recompute = true
	}
	for site, objects := range r.desired.sites {
		d := r.markDirty(site)
		for k := range objects {
			d.keys.Insert(k)
		}
	}
}

// Close shuts down the queues. Run does so too.
func (r *Reconciler) Close() {
	r.changed.ShutDown()
	r.queue.ShutDown()
}

// Run publishes until ctx ends. It returns hub.ErrReplaced if DESIRED has lost messages.
func (r *Reconciler) Run(ctx context.Context, workers int) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.external.run(ctx) })
	g.Go(func() error {
		<-ctx.Done()
		r.Close()
		return nil
	})
	g.Go(func() error {
		for k, down := r.changed.Get(); !down; k, down = r.changed.Get() {
			r.index(k)
			r.changed.Done(k)
		}
		return nil
	})
	for range workers {
		g.Go(func() error {
			for site, down := r.queue.Get(); !down; site, down = r.queue.Get() {
				r.process(ctx, site)
				r.queue.Done(site)
			}
			return nil
		})
	}
	return g.Wait()
}

func (r *Reconciler) process(ctx context.Context, site string) {
	err := r.publishSite(ctx, site)
	switch {
	case err == nil:
		r.queue.Forget(site)
	case ctx.Err() != nil:
	default:
		if r.queue.NumRequeues(site) == 0 && !errors.Is(err, errConcurrentWrite) && !errors.Is(err, errStaleCache) {
			r.log.Warn("publishing interrupted, retrying", zap.String("site", site), zap.Error(err))
		}
		r.queue.AddRateLimited(site)
	}
}

// index applies the present state of an object to the closure and marks the affected sites
// dirty.
func (r *Reconciler) index(k kube.Key) {
	o := r.objects.Get(k)
	var f closure.Dependencies
	if o != nil {
		var err error
		if f, err = closure.DependenciesOf(k, o); err != nil {
			r.log.Error("cannot decode object, its references are ignored", zap.Stringer("object", k.Ref("")), zap.Error(err))
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var sites []string
	if o != nil {
		sites = r.closure.Set(k, f)
	} else {
		sites = r.closure.Remove(k)
	}
	for _, s := range sites {
		d := r.markDirty(s)
		d.recompute = true
		if k.Group == "" && k.Resource == "nodes" {
			d.insertEndpoints(r.desired.sites[s]) // they depend on the site's nodes
		}
	}
	for _, s := range r.closure.Wanting(k) {
		r.markDirty(s).keys.Insert(k)
	}
}

// Listed schedules the objects of a resource that the sites have and that may be gone, once all of
// its objects are known.
func (r *Reconciler) Listed(gr schema.GroupResource) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for site, objects := range r.desired.sites {
		for k := range objects {
			if k.GroupResource() == gr {
				r.markDirty(site).keys.Insert(k)
			}
		}
	}
}

// markDirty schedules a site and returns its pending work. The caller holds the lock.
func (r *Reconciler) markDirty(site string) *dirtySite {
	r.queue.Add(site)
	return r.dirtySite(site)
}

func (r *Reconciler) dirtySite(site string) *dirtySite {
	d := r.dirty[site]
	if d == nil {
		d = &dirtySite{keys: sets.Set[kube.Key]{}, force: sets.Set[kube.Key]{}, extra: map[string]inventory.Entry{}}
		r.dirty[site] = d
	}
	return d
}

// restoreTasks puts tasks back that could not be done. The caller schedules the site again.
func (r *Reconciler) restoreTasks(site string, left []task) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(left) == 0 {
		return
	}
	d := r.dirtySite(site)
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
func (r *Reconciler) plan(site string) (tasks []task, known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.dirty[site]
	delete(r.dirty, site)
	r.publishing[site] = true
	if !r.closure.Exists(site) {
		r.closure.Recompute(site)
		return nil, false
	}
	delete(r.retired, site) // the Site was created again
	if d == nil {
		return nil, true
	}
	if d.recompute {
		changed, dropped := r.closure.Recompute(site)
		for _, k := range append(changed, dropped...) {
			d.keys.Insert(k)
		}
	}
	for k := range d.keys {
		node, wanted := r.closure.Node(site, k)
		if !wanted && r.closure.Selects(site, k.GroupResource()) && !r.objects.Listed(k) {
			continue // Listed comes back to it: until then nobody knows whether it is gone
		}
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

func (r *Reconciler) publishSite(ctx context.Context, site string) error {
	tasks, known := r.plan(site)
	defer r.finish(site)
	if !known {
		return r.removeSite(ctx, site)
	}
	var left []task
	var behind error
	for i, t := range tasks {
		err := r.execute(ctx, site, t)
		if errors.Is(err, errStaleCache) {
			left, behind = append(left, t), err
			continue // the other tasks do not depend on it
		}
		if err != nil {
			tasks[i].force = t.force || errors.Is(err, errResurrected)
			r.restoreTasks(site, append(left, tasks[i:]...))
			return err
		}
	}
	r.restoreTasks(site, left)
	return behind
}

// finish marks a site as no longer being published.
func (r *Reconciler) finish(site string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.publishing, site)
}

// retire schedules the removal of everything that is left of a site, unless its Site exists
// again by then.
func (r *Reconciler) retire(site string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.retired[site] = true
	r.markDirty(site)
}

// removeSite removes everything that is left of a site without a Site object. It runs in the
// worker that holds the site, so that a Site that is created again meanwhile is published
// afterwards.
func (r *Reconciler) removeSite(ctx context.Context, site string) error {
	r.mu.Lock()
	left := r.retired[site] || len(r.desired.sites[site]) > 0
	r.mu.Unlock()
	if !left {
		return nil
	}
	if err := r.fence.Check(); err != nil {
		return err
	}
	if err := streams.RemoveSite(ctx, r.hub.JS, site); err != nil {
		return err
	}
	r.mu.Lock()
	r.desired.removeSite(site)
	delete(r.retired, site)
	r.mu.Unlock()
	r.log.Info("site removed", zap.String("site", site))
	return nil
}
