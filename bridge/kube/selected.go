package kube

import (
	"context"
	"sync"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"
)

// selectedCache has the informers of the resources that Sites select, which come and go. Create it
// with newSelectedCache. It is safe for concurrent use.
type selectedCache struct {
	client   dynamic.Interface
	handlers Handlers
	// wake has a value when follow has added watches.
	wake chan struct{}

	mu      sync.RWMutex
	watches map[schema.GroupResource]*selectedWatch
}

// selectedWatch is the informer of one resource.
type selectedWatch struct {
	resource schema.GroupVersionResource
	informer cache.SharedIndexInformer
	started  bool
	stop     chan struct{}

	mu      sync.Mutex
	problem error
}

func newSelectedCache(client dynamic.Interface, h Handlers) *selectedCache {
	return &selectedCache{client: client, handlers: h, wake: make(chan struct{}, 1), watches: map[schema.GroupResource]*selectedWatch{}}
}

// Follow makes the cache have the objects of these resources besides those that it always has. It
// forgets the objects of others at once, and lists new ones while it runs. It does not block.
func (c *Cache) Follow(resources []schema.GroupVersionResource) error {
	return c.selected.follow(resources)
}

// Listed reports whether the cache knows all objects of a key's resource: false only for one that
// it was told to follow and has not listed.
func (c *Cache) Listed(k Key) bool {
	w := c.selected.watch(k.GroupResource())
	return w == nil || w.informer.HasSynced()
}

// Watched reports whether the cache watches a key's resource and has listed it: an object that Get
// does not return does not exist then. Until Run has called synced, objects that exist may be missing.
func (c *Cache) Watched(k Key) bool {
	if c.informers[k.GroupResource()] != nil {
		return true
	}
	w := c.selected.watch(k.GroupResource())
	return w != nil && w.informer.HasSynced()
}

// Problem returns the error of the last list or watch of a resource that the cache follows, nil if
// it succeeded.
func (c *Cache) Problem(gr schema.GroupResource) error {
	w := c.selected.watch(gr)
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.problem
}

func (c *selectedCache) watch(gr schema.GroupResource) *selectedWatch {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.watches[gr]
}

func (c *selectedCache) informer(gr schema.GroupResource) cache.SharedIndexInformer {
	if w := c.watch(gr); w != nil {
		return w.informer
	}
	return nil
}

func (c *selectedCache) keys() []Key {
	c.mu.RLock()
	defer c.mu.RUnlock()
	var all []Key
	for gr, w := range c.watches {
		all = append(all, keysIn(gr, w.informer)...)
	}
	return all
}

func (c *selectedCache) follow(resources []schema.GroupVersionResource) error {
	wanted := make(map[schema.GroupResource]schema.GroupVersionResource, len(resources))
	for _, r := range resources {
		wanted[r.GroupResource()] = r
	}
	gone, err := c.update(wanted)
	for _, w := range gone {
		close(w.stop)
		for _, k := range keysIn(w.resource.GroupResource(), w.informer) {
			c.handlers.Changed(k)
		}
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
	return err
}

// update replaces the watches. It returns those that are no longer wanted.
func (c *selectedCache) update(wanted map[schema.GroupResource]schema.GroupVersionResource) (gone []*selectedWatch, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for gr, w := range c.watches {
		if wanted[gr] != w.resource {
			delete(c.watches, gr)
			gone = append(gone, w)
		}
	}
	for gr, r := range wanted {
		if c.watches[gr] != nil {
			continue
		}
		w := &selectedWatch{resource: r, stop: make(chan struct{})}
		requests := Requests{Answered: c.handlers.Answered, Report: func(resource string, err error) {
			w.mu.Lock()
			w.problem = err
			w.mu.Unlock()
			c.handlers.SelectedReport(resource, err)
		}}
		if w.informer, err = newHandledInformer(c.client, r, c.handlers, requests); err != nil {
			return gone, err
		}
		c.watches[gr] = w
	}
	return gone, nil
}

// run runs the informers until ctx ends.
func (c *selectedCache) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		for _, w := range c.start() {
			wg.Go(func() { c.runWatch(ctx, w) })
		}
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		}
	}
}

// start returns the watches that do not run yet.
func (c *selectedCache) start() (fresh []*selectedWatch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range c.watches {
		if !w.started {
			w.started = true
			fresh = append(fresh, w)
		}
	}
	return fresh
}

func (c *selectedCache) runWatch(ctx context.Context, w *selectedWatch) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { w.informer.RunWithContext(ctx) })
	select {
	case <-ctx.Done():
		return
	case <-w.stop:
		return
	case <-w.informer.HasSyncedChecker().Done():
		c.handlers.SelectedListed(w.resource.GroupResource())
	}
	select {
	case <-ctx.Done():
	case <-w.stop:
	}
}
