package kube

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"
)

// Handlers are called by a Cache, from several goroutines, and must not block.
type Handlers struct {
	// Changed is called for each object that was added, updated or deleted, after the cache
	// has changed.
	Changed func(Key)
	// Deleted is called before Changed with the last known state of a deleted object.
	Deleted func(Key, *unstructured.Unstructured)
	Requests
	// SelectedListed is called when all objects of a resource that Sites select are known;
	// SelectedReport, in place of Report, with the outcome of each list and watch of one.
	SelectedListed func(schema.GroupResource)
	SelectedReport func(resource string, err error)
}

// Requests observe the lists and watches of an informer. They are called from several
// goroutines and must not block.
type Requests struct {
	// Answered is called when an API server has answered a list or started a watch, before the
	// cache changes.
	Answered func()
	// Report is called with the outcome of each list and watch of a resource. An expired
	// resource version is reported as neither success nor failure.
	Report func(resource string, err error)
}

// Cache is an informer cache of the watched resources, and of those that Sites select. It is safe
// for concurrent use.
type Cache struct {
	informers map[schema.GroupResource]cache.SharedIndexInformer
	selected  *selectedCache
}

// NewCache creates the informers of all watched resources. It starts nothing.
func NewCache(client dynamic.Interface, h Handlers) (*Cache, error) {
	c := &Cache{informers: map[schema.GroupResource]cache.SharedIndexInformer{}, selected: newSelectedCache(client, h)}
	for _, r := range watched {
		inf, err := newHandledInformer(client, r, h, h.Requests)
		if err != nil {
			return nil, err
		}
		c.informers[r.GroupResource()] = inf
	}
	return c, nil
}

// newHandledInformer creates an informer that calls the handlers.
func newHandledInformer(client dynamic.Interface, r schema.GroupVersionResource, h Handlers, requests Requests) (cache.SharedIndexInformer, error) {
	gr := r.GroupResource()
	inf, err := NewInformer(client, r, requests)
	if err != nil {
		return nil, err
	}
	changed := func(obj any) {
		if k, ok := keyFor(gr, obj); ok {
			h.Changed(k)
		}
	}
	if _, err := inf.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: changed, UpdateFunc: func(_, obj any) { changed(obj) }, DeleteFunc: func(obj any) {
			if k, ok := keyFor(gr, obj); ok {
				if o := lastSeen(obj); o != nil {
					h.Deleted(k, o)
				}
				h.Changed(k)
			}
		},
	}); err != nil {
		return nil, fmt.Errorf("prepare watch of %s: %w", gr, err)
	}
	return inf, nil
}

// NewInformer creates the informer of one resource, for a resource that only one component
// needs. It starts nothing.
func NewInformer(client dynamic.Interface, r schema.GroupVersionResource, requests Requests) (cache.SharedIndexInformer, error) {
	inf := cache.NewSharedIndexInformerWithOptions(listWatch(client, r, requests), &unstructured.Unstructured{},
		cache.SharedIndexInformerOptions{ObjectDescription: r.String()})
	if err := inf.SetTransform(strip); err != nil {
		return nil, fmt.Errorf("prepare watch of %s: %w", r.GroupResource(), err)
	}
	// listWatch reports the outcome of each call.
	if err := inf.SetWatchErrorHandlerWithContext(func(context.Context, *cache.Reflector, error) {}); err != nil {
		return nil, fmt.Errorf("prepare watch of %s: %w", r.GroupResource(), err)
	}
	return inf, nil
}

// listWatch returns the list and watch functions of one resource, which report each outcome.
//
// An optional resource that the API server does not serve has no objects. The informer asks again
// after at most 30 s, so that the resource is watched soon after the API server has been upgraded.
// Once it has been served, its absence is an error like any other: during an upgrade, API servers
// with and without the resource may answer in turn, and the sites would lose its objects.
func listWatch(client dynamic.Interface, r schema.GroupVersionResource, requests Requests) cache.ListerWatcher {
	var served atomic.Bool
	absent := func(err error) bool { return apierrors.IsNotFound(err) && isOptional(r) && !served.Load() }
	report := func(ctx context.Context, err error) {
		if err == nil {
			served.Store(true)
		}
		if absent(err) {
			err = nil
		}
		if err == nil {
			requests.Answered()
		}
		// An expired version is not an outage: the reflector lists the resource again.
		if ctx.Err() == nil && !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
			requests.Report(r.GroupResource().String(), err)
		}
	}
	return cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			if o.ResourceVersion == "0" {
				// A list from the cache of an API server could miss objects, and the sites
				// would lose them.
				o.ResourceVersion = ""
			}
			list, err := client.Resource(r).List(ctx, o)
			report(ctx, err)
			if absent(err) {
				return &unstructured.UnstructuredList{}, nil
			}
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (apiwatch.Interface, error) {
			w, err := client.Resource(r).Watch(ctx, o)
			report(ctx, err)
			return w, err
		},
	}, client)
}

// Run runs the informers until ctx ends. It calls synced once, when all resources have been
// listed but those that Sites select.
func (c *Cache) Run(ctx context.Context, synced func()) {
	var wg sync.WaitGroup
	for _, inf := range c.informers {
		wg.Go(func() { inf.RunWithContext(ctx) })
	}
	wg.Go(func() { c.selected.run(ctx) })
	wg.Go(func() {
		for _, inf := range c.informers {
			select {
			case <-ctx.Done():
				return
			case <-inf.HasSyncedChecker().Done():
			}
		}
		synced()
	})
	wg.Wait()
}

// Get returns the last known state of an object, nil if there is none. The caller must not
// change it.
func (c *Cache) Get(k Key) *unstructured.Unstructured {
	inf := c.informers[k.GroupResource()]
	if inf == nil {
		if inf = c.selected.informer(k.GroupResource()); inf == nil {
			return nil
		}
	}
	obj, ok, err := inf.GetStore().GetByKey(k.cacheKey())
	if err != nil || !ok {
		return nil
	}
	u, _ := obj.(*unstructured.Unstructured)
	return u
}

// Keys returns the keys of all known objects.
func (c *Cache) Keys() []Key {
	var all []Key
	for gr, inf := range c.informers {
		all = append(all, keysIn(gr, inf)...)
	}
	return append(all, c.selected.keys()...)
}

func keysIn(gr schema.GroupResource, inf cache.SharedIndexInformer) []Key {
	var keys []Key
	for _, obj := range inf.GetStore().List() {
		if k, ok := keyFor(gr, obj); ok {
			keys = append(keys, k)
		}
	}
	return keys
}

// lastSeen returns the last known state of a deleted object. The informer may have missed the
// deletion.
func lastSeen(obj any) *unstructured.Unstructured {
	if missed, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = missed.Obj
	}
	o, _ := obj.(*unstructured.Unstructured)
	return o
}

// keyFor returns the key of an object, or of the tombstone that the informer passes if it
// missed the deletion.
func keyFor(gr schema.GroupResource, obj any) (Key, bool) {
	name, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj)
	if err != nil {
		return Key{}, false
	}
	namespace, name, err := cache.SplitMetaNamespaceKey(name)
	return Key{Group: gr.Group, Resource: gr.Resource, Namespace: namespace, Name: name}, err == nil
}

// strip removes what no site needs and takes most of the memory.
func strip(obj any) (any, error) {
	if u, ok := obj.(*unstructured.Unstructured); ok {
		u.SetManagedFields(nil)
		if u.GetKind() == "CustomResourceDefinition" {
			stripDefinition(u)
		}
	}
	return obj, nil
}
