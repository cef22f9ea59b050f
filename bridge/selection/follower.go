package selection

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/bridge/kube"
)

// Cache has the objects of the API server. *kube.Cache implements it.
type Cache interface {
	// Get returns the last known state of an object, nil if there is none.
	Get(k kube.Key) *unstructured.Unstructured
	// Follow watches these resources, and no others that it was told to follow before.
	Follow(resources []schema.GroupVersionResource) error
	// Problem returns the error of the last list or watch of a followed resource.
	Problem(gr schema.GroupResource) error
}

// Config is what a Follower needs.
type Config struct {
	Cache Cache
	// Sites returns the names of the Sites that exist.
	Sites func() []string
	// Matched returns how many objects each selection of a Site matched, and how many of them, in
	// order, a site can have.
	Matched func(site string) (counts []int, limit int)
	Log     *zap.Logger
}

// Follower has the bridge watch what Sites select. Create it with New.
type Follower struct {
	cfg Config
	// due has a value while Run has to decide again.
	due chan struct{}

	mu sync.Mutex
	// seen maps each Site to the generation of its spec that was decided on.
	seen map[string]int64
}

// New returns a follower that has not started.
func New(cfg Config) *Follower {
	return &Follower{cfg: cfg, due: make(chan struct{}, 1), seen: map[string]int64{}}
}

// Changed notes that an object has changed. It does not block.
func (f *Follower) Changed(k kube.Key) {
	switch {
	case k.Group == kube.ExtensionsGroup, k.Group == kube.SiteGroup && f.specChanged(k):
	default:
		return
	}
	select {
	case f.due <- struct{}{}:
	default:
	}
}

// specChanged reports whether the spec of a Site is another one than at the last call: its status
// changes all the time.
func (f *Follower) specChanged(k kube.Key) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	was, known := f.seen[k.Name]
	o := f.cfg.Cache.Get(k)
	if o == nil {
		delete(f.seen, k.Name)
		return known
	}
	f.seen[k.Name] = o.GetGeneration()
	return !known || was != o.GetGeneration()
}

// Run decides again after each change until ctx ends.
func (f *Follower) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.due:
			f.Decide()
		}
	}
}

// Close does nothing: a follower has no queue.
func (*Follower) Close() {}

// Decide has the cache follow what the Sites select now.
func (f *Follower) Decide() {
	var resources []schema.GroupVersionResource
	for _, name := range f.cfg.Sites() {
		for _, r := range f.selected(name) {
			if gvr, _, problem := f.check(r.GroupResource()); problem == "" && !slices.Contains(resources, gvr) {
				resources = append(resources, gvr)
			}
		}
	}
	if err := f.cfg.Cache.Follow(resources); err != nil {
		f.cfg.Log.Error("watch what Sites select", zap.Error(err))
	}
}

// selected returns what a Site selects.
func (f *Follower) selected(name string) []v1alpha1.SiteResource {
	o := f.cfg.Cache.Get(kube.SiteKey(name))
	if o == nil {
		return nil
	}
	var site v1alpha1.Site
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &site); err != nil {
		f.cfg.Log.Error("read a Site", zap.String("site", name), zap.Error(err))
		return nil
	}
	return site.Spec.Resources
}

// check returns the version in which a resource is watched, or the reason and the message for which
// it is not.
func (f *Follower) check(gr schema.GroupResource) (gvr schema.GroupVersionResource, reason, problem string) {
	if k := (kube.Key{Group: gr.Group, Resource: gr.Resource}); !k.IsSelected() || gr.Group == kube.SiteGroup || gr.Group == kube.DeviceGroup {
		return gvr, v1alpha1.ReasonResourceNotSelectable, "sites get what they need of it without a selection"
	}
	o := f.cfg.Cache.Get(kube.DefinitionKey(gr))
	if o == nil {
		return gvr, v1alpha1.ReasonResourceNotFound, fmt.Sprintf("there is no CustomResourceDefinition %s, and only custom resources can be selected", gr)
	}
	gvr, served := kube.Defined(o)
	if !served {
		return gvr, v1alpha1.ReasonResourceNotFound, fmt.Sprintf("the API server does not serve CustomResourceDefinition %s yet", gr)
	}
	return gvr, "", ""
}

// Condition returns the condition of a Site that selects resources, false if it selects none. The
// first problem gives the reason.
func (f *Follower) Condition(name string, spec v1alpha1.SiteSpec) (metav1.Condition, bool) {
	c := metav1.Condition{
		Type: v1alpha1.ConditionResourcesSelected, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonAsExpected,
		Message: "the site gets every object that spec.resources selects",
	}
	if len(spec.Resources) == 0 {
		return c, false
	}
	counts, left := f.cfg.Matched(name)
	var problems string
	for i, r := range spec.Resources {
		reason, problem := f.problem(r.GroupResource())
		if problem == "" && i < len(counts) {
			if counts[i] > left {
				reason, problem = v1alpha1.ReasonTooManyObjects, fmt.Sprintf("%d objects are selected, of which the site gets the oldest %d", counts[i], left)
			}
			left -= min(counts[i], left)
		}
		if problem == "" {
			continue
		}
		if c.Status == metav1.ConditionTrue {
			c.Status, c.Reason = metav1.ConditionFalse, reason
		} else {
			problems += "; "
		}
		problems += fmt.Sprintf("spec.resources[%d] (%s): %s", i, r.GroupResource(), problem)
	}
	if problems != "" {
		c.Message = problems
	}
	return c, true
}

// problem returns the reason and the message for which the objects of a resource are not known, empty
// if they are.
func (f *Follower) problem(gr schema.GroupResource) (reason, problem string) {
	if _, reason, problem := f.check(gr); problem != "" {
		return reason, problem
	}
	err := f.cfg.Cache.Problem(gr)
	switch {
	case err == nil:
		return "", ""
	case apierrors.IsForbidden(err):
		return v1alpha1.ReasonResourceForbidden, fmt.Sprintf("the bridge may not read it: %v", err)
	}
	return v1alpha1.ReasonResourceUnavailable, fmt.Sprintf("the bridge cannot read it: %v", err)
}
