package closure

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/bridge/kube"
)

// maxSelected is the number of objects that a site can have because its Site selects them: each
// takes memory there, and a selection that matches more than its author thought should not use up
// that of a gateway.
const maxSelected = 1000

// Selection selects objects of one resource.
type Selection struct {
	schema.GroupResource
	// Namespaces is empty for all.
	Namespaces []string
	// Labels is the text of a selector.
	Labels string
}

func (s Selection) equal(t Selection) bool {
	return s.GroupResource == t.GroupResource && s.Labels == t.Labels && slices.Equal(s.Namespaces, t.Namespaces)
}

// selections returns what a Site selects.
func selections(k kube.Key, o *unstructured.Unstructured) ([]Selection, error) {
	var site v1alpha1.Site
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &site); err != nil {
		return nil, fmt.Errorf("read %s: %w", k.Ref(""), err)
	}
	var all []Selection
	for i, r := range site.Spec.Resources {
		selector, err := metav1.LabelSelectorAsSelector(cmp.Or(r.Selector, &metav1.LabelSelector{}))
		if err != nil {
			return all, fmt.Errorf("read %s: spec.resources[%d].selector: %w", k.Ref(""), i, err)
		}
		all = append(all, Selection{r.GroupResource(), r.Namespaces, selector.String()})
	}
	return all, nil
}

// selector is a Selection with its selector parsed.
type selector struct {
	Selection
	labels labels.Selector
}

func newSelector(s Selection) selector {
	parsed, err := labels.Parse(s.Labels)
	if err != nil {
		parsed = labels.Nothing() // never: the text is a selector's
	}
	return selector{s, parsed}
}

func (s selector) matches(k kube.Key, f Dependencies) bool {
	return s.GroupResource == k.GroupResource() && (len(s.Namespaces) == 0 || slices.Contains(s.Namespaces, k.Namespace)) &&
		s.labels.Matches(labels.Set(f.Labels))
}

// selected are the objects of selected resources, and which Sites select what.
type selected struct {
	objects map[schema.GroupResource]keySet
	sites   map[string][]selector
	// matched maps each site to the numbers of objects that its selections matched at the last
	// Recompute.
	matched map[string][]int
}

func newSelected() selected {
	return selected{objects: map[schema.GroupResource]keySet{}, sites: map[string][]selector{}, matched: map[string][]int{}}
}

// Matched returns how many objects each selection of a Site matched at the last Recompute, and how
// many of them, in order, a site can have.
func (x *Index) Matched(site string) (counts []int, limit int) {
	return slices.Clone(x.selected.matched[site]), maxSelected
}

// Selects reports whether a Site selects objects of a resource.
func (x *Index) Selects(site string, gr schema.GroupResource) bool {
	return slices.ContainsFunc(x.selected.sites[site], func(s selector) bool { return s.GroupResource == gr })
}

// selecting returns the sites that select an object.
func (x *Index) selecting(k kube.Key, f Dependencies) map[string]struct{} {
	out := map[string]struct{}{}
	for site, all := range x.selected.sites {
		if slices.ContainsFunc(all, func(s selector) bool { return s.matches(k, f) }) {
			out[site] = struct{}{}
		}
	}
	return out
}

// visitSelected visits the definitions and the objects that a Site selects. If there are too many
// objects it takes the oldest, so that a new one takes no other's place.
func (x *Index) visitSelected(now map[kube.Key]string, site string) {
	room := maxSelected
	var counts []int
	for _, s := range x.selected.sites[site] {
		if (kube.Key{Group: s.Group, Resource: s.Resource}).IsSelected() {
			x.visit(now, kube.DefinitionKey(s.GroupResource), "")
		}
		var found []kube.Key
		for k := range x.selected.objects[s.GroupResource] {
			if s.matches(k, x.dependencies[k]) {
				found = append(found, k)
			}
		}
		counts = append(counts, len(found))
		if len(found) > room {
			slices.SortFunc(found, func(a, b kube.Key) int {
				return cmp.Or(cmp.Compare(x.dependencies[a].Created, x.dependencies[b].Created), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
			})
			found = found[:room]
		}
		room -= len(found)
		for _, k := range found {
			x.visit(now, k, "")
		}
	}
	if len(counts) == 0 {
		delete(x.selected.matched, site)
		return
	}
	x.selected.matched[site] = counts
}

func equalLabels(f, g Dependencies) bool {
	return f.Created == g.Created && maps.Equal(f.Labels, g.Labels) && slices.EqualFunc(f.Selects, g.Selects, Selection.equal)
}
