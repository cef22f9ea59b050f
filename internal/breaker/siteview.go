package breaker

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"

	"github.com/petiole-io/petiole/internal/breaker/check"
	"github.com/petiole-io/petiole/internal/breaker/world"
	"github.com/petiole-io/petiole/internal/oracle"
)

// recordedResources are the resources whose every version at a site is recorded.
var recordedResources = []string{"pods", "configmaps", "secrets"}

// siteView follows the objects of one site's node API, as a node's client does: it lists,
// watches, and lists again when the watch has ended.
type siteView struct {
	site   *world.Site
	record *recorder
	// pausable pauses all clients of the site while its disk is
	// changed.
	*pausable

	mu      sync.Mutex
	present map[string]map[string]*unstructured.Unstructured // resource → object → as it was last seen
}

func newSiteView(s *world.Site, r *recorder, p *pausable) *siteView {
	v := &siteView{site: s, record: r, pausable: p, present: map[string]map[string]*unstructured.Unstructured{}}
	for _, resource := range recordedResources {
		v.present[resource] = map[string]*unstructured.Unstructured{}
	}
	return v
}

// client returns a client of the site's node API; there is a new one for each session, since
// the leaf may have another disk.
func (v *siteView) client() (*dynamic.DynamicClient, error) {
	cfg, err := v.site.NodeAPI()
	if err != nil {
		return nil, err
	}
	return dynamic.NewForConfig(cfg)
}

// run follows until ctx ends.
func (v *siteView) run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, resource := range recordedResources {
		wg.Go(func() {
			for sleep(ctx, 100*time.Millisecond) {
				v.do(ctx, func(ctx context.Context) { v.follow(ctx, resource) })
			}
		})
	}
	wg.Wait()
}

// follow runs one list and the watch after it. Errors are ignored: the site may be
// down on purpose, and the next session shows what there is.
func (v *siteView) follow(ctx context.Context, resource string) {
	client, err := v.client()
	if err != nil {
		return
	}
	c := client.Resource(schema.GroupVersionResource{Version: "v1", Resource: resource}).Namespace(v.site.Objects())
	look, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	list, err := c.List(look, metav1.ListOptions{})
	if err != nil {
		return
	}
	v.listed(resource, list)
	w, err := c.Watch(ctx, metav1.ListOptions{ResourceVersion: list.GetResourceVersion(), AllowWatchBookmarks: true})
	if err != nil {
		return
	}
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-w.ResultChan():
			if !ok || e.Type == watch.Error {
				return
			}
			if o, isObject := e.Object.(*unstructured.Unstructured); isObject {
				v.event(resource, e.Type, o)
			}
		}
	}
}

func (v *siteView) listed(resource string, list *unstructured.UnstructuredList) {
	v.mu.Lock()
	defer v.mu.Unlock()
	had := maps.Clone(v.present[resource])
	for i := range list.Items {
		o := &list.Items[i]
		if was := had[o.GetName()]; was != nil && was.GetUID() != o.GetUID() {
			// What happened between two lists was not seen: the old one has gone.
			v.gone(resource, was)
		}
		delete(had, o.GetName())
		v.seen(resource, o, true)
	}
	for _, was := range had {
		v.gone(resource, was)
	}
}

func (v *siteView) event(resource string, kind watch.EventType, o *unstructured.Unstructured) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch kind {
	case watch.Added, watch.Modified:
		v.seen(resource, o, false)
	case watch.Deleted:
		v.gone(resource, o)
	}
}

func (v *siteView) seen(resource string, o *unstructured.Unstructured, listed bool) {
	v.present[resource][o.GetName()] = o
	v.record.add(check.Event{
		Kind: check.Seen, Site: v.site.Name, Object: objectName(resource, o.GetNamespace(), o.GetName()), UID: string(o.GetUID()),
		Counter: counterOf(o.GetAnnotations()), Owner: o.GetLabels()[ownerLabel], Digest: digestOf(o), Listed: listed, Loose: isLoose(o.GetName()),
	})
}

func (v *siteView) gone(resource string, o *unstructured.Unstructured) {
	delete(v.present[resource], o.GetName())
	v.record.add(check.Event{Kind: check.Gone, Site: v.site.Name, Object: objectName(resource, o.GetNamespace(), o.GetName()), UID: string(o.GetUID())})
}

// pods returns the pods that the site shows.
func (v *siteView) pods() []*unstructured.Unstructured {
	v.mu.Lock()
	defer v.mu.Unlock()
	out := make([]*unstructured.Unstructured, 0, len(v.present["pods"]))
	for _, o := range v.present["pods"] {
		out = append(out, o)
	}
	return out
}

// reset is called when the site has another disk.
func (v *siteView) reset() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, resource := range recordedResources {
		clear(v.present[resource])
	}
}

// comparedResources are the resources of which a site must have exactly the desired state.
var comparedResources = append(comparedWithFormer,
	oracle.EndpointSlices, oracle.ServiceCIDRs,
	oracle.RBAC("roles"), oracle.RBAC("clusterroles"), oracle.RBAC("rolebindings"), oracle.RBAC("clusterrolebindings"),
)

// comparedWithFormer are those of a run with two versions: the others do not reach a site of the former
// version, or in another form.
var comparedWithFormer = []schema.GroupVersionResource{
	oracle.Core("nodes"), oracle.Core("pods"), oracle.Core("configmaps"), oracle.Core("secrets"), oracle.Core("serviceaccounts"),
	oracle.Core("namespaces"), oracle.Core("services"),
}

// list lists the objects of some resources of the site's node API.
func (v *siteView) list(ctx context.Context, resources []schema.GroupVersionResource) (map[schema.GroupVersionResource][]unstructured.Unstructured, error) {
	client, err := v.client()
	if err != nil {
		return nil, err
	}
	out := map[schema.GroupVersionResource][]unstructured.Unstructured{}
	for _, gvr := range resources {
		l, err := client.Resource(gvr).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, fmt.Errorf("list %s at %s: %w", gvr.Resource, v.site.Name, err)
		}
		out[gvr] = l.Items
	}
	return out, nil
}
