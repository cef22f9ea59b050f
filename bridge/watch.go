package bridge

import (
	"context"
	"fmt"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"
)

// watch is an informer cache of the watched resources. It calls changed for each object that
// changes.
type watch struct {
	informers map[schema.GroupResource]cache.SharedIndexInformer
	barrier   *storageBarrier
}

// newWatch creates the informers. changed is called for each object that was added, updated or
// deleted, from several goroutines, and must not block. Before that, deleted is called with
// the last known state of a deleted object.
func newWatch(client dynamic.Interface, out *outage, changed func(objectKey), deleted func(objectKey, *unstructured.Unstructured)) (*watch, error) {
	w := &watch{informers: map[schema.GroupResource]cache.SharedIndexInformer{}, barrier: newStorageBarrier()}
	for _, r := range watched {
		gr := r.GroupResource()
		inf, err := newInformer(client, r, out, w.barrier.invalidate)
		if err != nil {
			return nil, err
		}
		note := func(obj any) {
			if k, ok := keyFor(gr, obj); ok {
				changed(k)
			}
		}
		if _, err := inf.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: note, UpdateFunc: func(_, obj any) { note(obj) }, DeleteFunc: func(obj any) {
				if k, ok := keyFor(gr, obj); ok {
					if o := lastSeen(obj); o != nil {
						deleted(k, o)
					}
					changed(k)
				}
			},
		}); err != nil {
			return nil, fmt.Errorf("prepare watch of %s: %w", gr, err)
		}
		w.informers[gr] = inf
	}
	return w, nil
}

// newInformer creates the informer of one resource. responded is called when an API server has
// answered a list or started a watch, before the store changes.
func newInformer(client dynamic.Interface, r schema.GroupVersionResource, out *outage, responded func()) (cache.SharedIndexInformer, error) {
	inf := cache.NewSharedIndexInformerWithOptions(listWatch(client, r, out, responded), &unstructured.Unstructured{},
		cache.SharedIndexInformerOptions{ObjectDescription: r.String()})
	if err := inf.SetTransform(dropManagedFields); err != nil {
		return nil, fmt.Errorf("prepare watch of %s: %w", r.GroupResource(), err)
	}
	// listWatch reports the outcome of each call.
	if err := inf.SetWatchErrorHandlerWithContext(func(context.Context, *cache.Reflector, error) {}); err != nil {
		return nil, fmt.Errorf("prepare watch of %s: %w", r.GroupResource(), err)
	}
	return inf, nil
}

// listWatch returns the list and watch functions of one resource, which report each outcome.
func listWatch(client dynamic.Interface, r schema.GroupVersionResource, out *outage, responded func()) cache.ListerWatcher {
	report := func(ctx context.Context, err error) {
		if err == nil {
			responded()
		}
		// An expired version is not an outage: the reflector lists the resource again.
		if ctx.Err() == nil && !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
			out.reportPart(r.GroupResource().String(), err)
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
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (apiwatch.Interface, error) {
			w, err := client.Resource(r).Watch(ctx, o)
			report(ctx, err)
			return w, err
		},
	}, client)
}

// run runs the informers until ctx ends. It calls synced once, when all resources have been
// listed.
func (w *watch) run(ctx context.Context, synced func()) {
	var wg sync.WaitGroup
	for _, inf := range w.informers {
		wg.Go(func() { inf.RunWithContext(ctx) })
	}
	wg.Go(func() {
		for _, inf := range w.informers {
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

// get returns the last known state of an object, nil if there is none. The caller must not
// change it.
func (w *watch) get(k objectKey) *unstructured.Unstructured {
	inf := w.informers[schema.GroupResource{Group: k.Group, Resource: k.Resource}]
	if inf == nil {
		return nil
	}
	obj, ok, err := inf.GetStore().GetByKey(k.cacheKey())
	if err != nil || !ok {
		return nil
	}
	u, _ := obj.(*unstructured.Unstructured)
	return u
}

// keys returns the keys of all known objects.
func (w *watch) keys() []objectKey {
	var all []objectKey
	for gr, inf := range w.informers {
		for _, obj := range inf.GetStore().List() {
			if k, ok := keyFor(gr, obj); ok {
				all = append(all, k)
			}
		}
	}
	return all
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
func keyFor(gr schema.GroupResource, obj any) (objectKey, bool) {
	name, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj)
	if err != nil {
		return objectKey{}, false
	}
	namespace, name, err := cache.SplitMetaNamespaceKey(name)
	return objectKey{Group: gr.Group, Resource: gr.Resource, Namespace: namespace, Name: name}, err == nil
}

func dropManagedFields(obj any) (any, error) {
	if u, ok := obj.(*unstructured.Unstructured); ok {
		u.SetManagedFields(nil)
	}
	return obj, nil
}
