package bridge

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"go.uber.org/zap"
	"k8s.io/client-go/util/workqueue"

	"github.com/petiole-io/petiole/streams"
)

var (
	// errMoved reports that the hub holds something else than this bridge knew of. It has
	// been read anew; the caller tries again.
	errConcurrentWrite = errors.New("changed by another writer")
	// errBehind reports that the copy of an object is older than what was published of
	// it. The caller tries again when the watch has caught up.
	errStaleCache = errors.New("the watch is behind what was published")
)

// publisher makes DESIRED equal to what each site needs. Changes of objects come in
// through changed, one worker applies them to the closure, and several workers publish
// sites: one site by one worker at a time, what a pod needs before the pod.
type publisher struct {
	hub   *hub
	watch *watch
	fence *fence
	epoch string
	log   *zap.Logger
	count *counters
	// suspect is told of an object whose version is lower than what was published of it.
	onOlderVersion func(k objectKey, uid, published string)

	objects workqueue.TypedRateLimitingInterface[objectKey]
	queue   workqueue.TypedRateLimitingInterface[string]

	mu      sync.Mutex
	closure *closure
	desired *desiredCache
	dirty   map[string]*dirtySite
	// busy are the sites that are being published now.
	publishing map[string]bool
	// retired are names that the hub has a consumer for although there was no such Site
	// when it was looked for.
	retired map[string]bool
}

// dirtySite is what is to be done for a site.
type dirtySite struct {
	recompute bool
	keys      keySet
	// again are objects to publish although they have not changed.
	force keySet
	// strangers are what the site has, by subject, and should not.
	extra map[string]streams.InventoryEntry
}

func newPublisher(w *watch, f *fence, count *counters, metrics *instruments, log *zap.Logger) *publisher {
	return &publisher{
		watch: w, fence: f, log: log, count: count, closure: newClosure(), desired: newDesiredCache(),
		dirty: map[string]*dirtySite{}, publishing: map[string]bool{}, retired: map[string]bool{}, onOlderVersion: func(objectKey, string, string) {},
		objects: newQueue[objectKey](metrics, "objects", publishRetry),
		queue:   newQueue[string](metrics, "sites", publishRetry),
	}
}

// changed notes that an object is to be looked at.
func (p *publisher) enqueue(k objectKey) { p.objects.Add(k) }

// start takes over the objects that exist and what DESIRED held, and marks every site.
func (p *publisher) load(h *hub, epoch string, was *desiredCache) {
	p.hub, p.epoch = h, epoch
	for _, k := range p.watch.keys() {
		p.index(k)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.desired = was
	for site := range p.closure.sites {
		p.markDirty(site).recompute = true
	}
	for site, objects := range was.sites {
		d := p.markDirty(site)
		for k := range objects {
			d.keys[k] = struct{}{}
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
			p.log.Warn("publish interrupted, trying again", zap.String("site", site), zap.Error(err))
		}
		p.queue.AddRateLimited(site)
	}
}

// observe takes an object as it is now into the closure and marks the sites that its
// change concerns.
func (p *publisher) index(k objectKey) {
	o := p.watch.get(k)
	var f dependencies
	if o != nil {
		var err error
		if f, err = dependenciesOf(k, o); err != nil {
			p.log.Error("object not understood, its references are not followed", zap.Stringer("object", k.ref("")), zap.Error(err))
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var sites []string
	if o != nil {
		sites = p.closure.set(k, f)
	} else {
		sites = p.closure.remove(k)
	}
	for _, s := range sites {
		p.markDirty(s).recompute = true
	}
	for _, s := range p.closure.sitesWanting(k) {
		p.markDirty(s).keys[k] = struct{}{}
	}
}

// mark returns the list of what is to be done for a site, and sees to it that it is
// done. The caller holds the lock.
func (p *publisher) markDirty(site string) *dirtySite {
	p.queue.Add(site)
	return p.dirtySite(site)
}

func (p *publisher) dirtySite(site string) *dirtySite {
	d := p.dirty[site]
	if d == nil {
		d = &dirtySite{keys: keySet{}, force: keySet{}, extra: map[string]streams.InventoryEntry{}}
		p.dirty[site] = d
	}
	return d
}

// remember keeps what could not be done; the caller sees to it that it is tried again.
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
		d.keys[t.key] = struct{}{}
		if t.force {
			d.force[t.key] = struct{}{}
		}
	}
}

// task is one object to bring up to date at a site.
type task struct {
	key    objectKey
	node   string
	wanted bool
	// again says to publish it also when it has not changed.
	force bool
	// stranger is what a site has on a subject that is not wanted there.
	extra *streams.InventoryEntry
}

// plan takes what is marked for a site and orders it; from now on the site is busy.
// known is false when there is no such Site.
func (p *publisher) plan(site string) (tasks []task, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := p.dirty[site]
	delete(p.dirty, site)
	p.publishing[site] = true
	if !p.closure.sites[site] {
		p.closure.recompute(site)
		return nil, false
	}
	delete(p.retired, site) // it was made again
	if d == nil {
		return nil, true
	}
	if d.recompute {
		changed, dropped := p.closure.recompute(site)
		for _, k := range append(changed, dropped...) {
			d.keys[k] = struct{}{}
		}
	}
	for k := range d.keys {
		node, wanted := p.closure.node(site, k)
		_, again := d.force[k]
		tasks = append(tasks, task{key: k, node: node, wanted: wanted, force: again})
	}
	for _, e := range d.extra {
		tasks = append(tasks, task{extra: &e})
	}
	slices.SortFunc(tasks, func(a, b task) int {
		return cmp.Or(cmp.Compare(a.key.rank(), b.key.rank()), strings.Compare(a.key.Namespace, b.key.Namespace), strings.Compare(a.key.Name, b.key.Name))
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
			continue // the others need not wait for it
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

// rest notes that a site is not being published any more.
func (p *publisher) finish(site string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.publishing, site)
}

// retire has what is left of a site taken away, unless the Site is there again by then.
func (p *publisher) retire(site string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.retired[site] = true
	p.markDirty(site)
}

// removeSite takes away what is left of a site without a Site object. Only the worker that
// has the site does this: one that is made again meanwhile is published afterwards.
func (p *publisher) removeSite(ctx context.Context, site string) error {
	p.mu.Lock()
	left := p.retired[site] || len(p.desired.sites[site]) > 0
	p.mu.Unlock()
	if !left {
		return nil
	}
	if err := p.fence.check(); err != nil {
		return err
	}
	if err := streams.RemoveSite(ctx, p.hub.js, site); err != nil {
		return err
	}
	p.mu.Lock()
	p.desired.removeSite(site)
	delete(p.retired, site)
	p.mu.Unlock()
	p.log.Info("site removed", zap.String("site", site))
	return nil
}

// siteNodes are the nodes of every Site there is.
func (p *publisher) nodesBySite() map[string][]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make(map[string][]string, len(p.closure.sites))
	for s := range p.closure.sites {
		out[s] = p.closure.nodes(s)
	}
	return out
}

// nodesOf are the nodes of a site.
func (p *publisher) nodesOf(site string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closure.nodes(site)
}

// siteExists says whether there is a Site of that name.
func (p *publisher) siteExists(site string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closure.sites[site]
}

// siteOf is the site of a node, empty when the node is not known or not of a site.
func (p *publisher) siteOf(node string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closure.siteOf(node)
}

// podsOn are the pods bound to a node.
func (p *publisher) podsOn(node string) []objectKey {
	p.mu.Lock()
	defer p.mu.Unlock()
	var pods []objectKey
	for k := range p.closure.bound[node] {
		if k.Resource == "pods" {
			pods = append(pods, k)
		}
	}
	return pods
}
