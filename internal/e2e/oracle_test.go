package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/petiole-io/petiole/internal/e2e/rig"
	"github.com/petiole-io/petiole/streams"
)

// content is what the API says a site shall have: for each object the canonical JSON
// of all that concerns the site.
//
// It is computed here from the API alone, by other code than the bridge's, so that the
// two can be compared. It covers the resources that this suite uses.
type content map[streams.Ref]string

const devicesGroup = "devices.kubeedge.io"

// wanted reads the API.
func wanted(ctx context.Context, site string) (content, error) {
	o := oracle{ctx: ctx, all: map[schema.GroupVersionResource][]unstructured.Unstructured{}, out: content{}}
	if err := o.collect(site); err != nil {
		return nil, fmt.Errorf("read what %s shall have: %w", site, err)
	}
	return o.out, nil
}

type oracle struct {
	ctx context.Context
	all map[schema.GroupVersionResource][]unstructured.Unstructured
	out content
}

func core(resource string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Version: "v1", Resource: resource}
}

func device(resource string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: devicesGroup, Version: "v1beta1", Resource: resource}
}

var endpointSlices = schema.GroupVersionResource{Group: "discovery.k8s.io", Version: "v1", Resource: "endpointslices"}

func (o *oracle) collect(site string) error {
	nodes, err := o.list(core("nodes"))
	if err != nil {
		return err
	}
	mine := map[string]bool{}
	for _, n := range nodes {
		if n.GetLabels()[siteLabel] == site {
			mine[n.GetName()] = true
			o.put(core("nodes"), n.GetName(), n)
		}
	}
	namespaces := map[string]bool{}
	pods, err := o.list(core("pods"))
	if err != nil {
		return err
	}
	for _, p := range pods {
		node, _, err := unstructured.NestedString(p.Object, "spec", "nodeName")
		if err != nil || !mine[node] {
			continue
		}
		o.put(core("pods"), node, p)
		namespaces[p.GetNamespace()] = true
		if err := o.podNeeds(p); err != nil {
			return err
		}
	}
	if err := o.namespaced(namespaces); err != nil {
		return err
	}
	return o.devices(mine)
}

// namespaced takes the namespaces of pods with their services, and the one service by
// which pods find the API server.
func (o *oracle) namespaced(namespaces map[string]bool) error {
	for ns := range namespaces {
		if err := o.take(core("namespaces"), "", ns); err != nil {
			return err
		}
	}
	for _, gvr := range []schema.GroupVersionResource{core("services"), endpointSlices} {
		list, err := o.list(gvr)
		if err != nil {
			return err
		}
		for _, s := range list {
			if namespaces[s.GetNamespace()] || s.GetNamespace() == "default" && s.GetName() == "kubernetes" {
				o.put(gvr, "", s)
			}
		}
	}
	return nil
}

func (o *oracle) devices(nodes map[string]bool) error {
	list, err := o.list(device("devices"))
	if err != nil {
		return err
	}
	for _, d := range list {
		node, _, err := unstructured.NestedString(d.Object, "spec", "nodeName")
		if err != nil || !nodes[node] {
			continue
		}
		o.put(device("devices"), node, d)
		model, _, err := unstructured.NestedString(d.Object, "spec", "deviceModelRef", "name")
		if err != nil {
			return err
		}
		if err := o.take(device("devicemodels"), d.GetNamespace(), model); err != nil {
			return err
		}
	}
	return nil
}

// podNeeds finds every name that a pod refers to by the JSON keys that hold one.
func (o *oracle) podNeeds(pod unstructured.Unstructured) error {
	data, err := json.Marshal(pod.Object["spec"])
	if err != nil {
		return err
	}
	var spec corev1.PodSpec
	if err := json.Unmarshal(data, &spec); err != nil {
		return err
	}
	ns := pod.GetNamespace()
	need := map[schema.GroupVersionResource]map[string]bool{core("configmaps"): {}, core("secrets"): {}, core("serviceaccounts"): {spec.ServiceAccountName: true}}
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, e := range v {
				walk(e)
			}
		case map[string]any:
			for key, inner := range v {
				m, ok := inner.(map[string]any)
				name, _ := m["name"].(string)
				switch key {
				case "configMap", "configMapRef", "configMapKeyRef":
					need[core("configmaps")][name] = ok
				case "secret":
					if secretName, isVolume := m["secretName"].(string); isVolume {
						name = secretName
					}
					need[core("secrets")][name] = ok
				case "secretRef", "secretKeyRef":
					need[core("secrets")][name] = ok
				}
				walk(inner)
			}
		}
	}
	var generic any
	if err := json.Unmarshal(data, &generic); err != nil {
		return err
	}
	walk(generic)
	for gvr, names := range need {
		for name, ok := range names {
			if !ok || name == "" {
				continue
			}
			if err := o.take(gvr, ns, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// take adds one object if it exists.
func (o *oracle) take(gvr schema.GroupVersionResource, namespace, name string) error {
	list, err := o.list(gvr)
	if err != nil {
		return err
	}
	if namespace == "" {
		namespace = metav1.NamespaceNone
	}
	for _, e := range list {
		if e.GetNamespace() == namespace && e.GetName() == name {
			o.put(gvr, "", e)
		}
	}
	return nil
}

func (o *oracle) list(gvr schema.GroupVersionResource) ([]unstructured.Unstructured, error) {
	if l, ok := o.all[gvr]; ok {
		return l, nil
	}
	l, err := lab.Dynamic.Resource(gvr).List(o.ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", gvr.Resource, err)
	}
	o.all[gvr] = l.Items
	return l.Items, nil
}

func (o *oracle) put(gvr schema.GroupVersionResource, node string, u unstructured.Unstructured) {
	ref := streams.Ref{Node: node, Group: gvr.Group, Resource: gvr.Resource, Namespace: u.GetNamespace(), Name: u.GetName()}
	o.out[ref] = canonical(u.Object)
}

// canonical is what of an object concerns a site, with its keys in order: not the
// version counters, not the status, and of a node not what the cloud says of the link.
func canonical(object map[string]any) string {
	u := unstructured.Unstructured{Object: object}
	c := u.DeepCopy()
	unstructured.RemoveNestedField(c.Object, "status")
	unstructured.RemoveNestedField(c.Object, "metadata", "managedFields")
	unstructured.RemoveNestedField(c.Object, "metadata", "resourceVersion")
	unstructured.RemoveNestedField(c.Object, "metadata", "generation")
	if c.GetKind() == "Node" {
		taints, _, err := unstructured.NestedSlice(c.Object, "spec", "taints")
		if err == nil {
			taints = slices.DeleteFunc(taints, func(t any) bool {
				key, _ := t.(map[string]any)["key"].(string)
				return strings.HasPrefix(key, "node.kubernetes.io/unreachable") || strings.HasPrefix(key, "node.kubernetes.io/not-ready")
			})
		}
		if len(taints) == 0 {
			unstructured.RemoveNestedField(c.Object, "spec", "taints")
		} else if err := unstructured.SetNestedSlice(c.Object, taints, "spec", "taints"); err != nil {
			return err.Error()
		}
	}
	data, err := json.Marshal(c.Object)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// changedSince lists the objects that were added, removed or changed.
func (c content) changedSince(before content) []streams.Ref {
	changed := map[streams.Ref]bool{}
	for r, v := range c {
		if was, ok := before[r]; !ok || was != v {
			changed[r] = true
		}
	}
	for r := range before {
		if _, ok := c[r]; !ok {
			changed[r] = true
		}
	}
	refs := slices.Collect(maps.Keys(changed))
	slices.SortFunc(refs, func(a, b streams.Ref) int { return strings.Compare(a.String(), b.String()) })
	return refs
}

// stored reads what a stream of DESIRED's form holds for a site: the hub's or, through
// the link, the site's own.
func stored(ctx context.Context, site *rig.Site, name string) (content, error) {
	js := lab.JS
	if name == streams.SiteDesired {
		js = site.JS
	}
	// What is asked while the link comes up may go into the old connection; the measured
	// time shall not be that of waiting for an answer that cannot come.
	open, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	stream, err := js.Stream(open, name)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	out := content{}
	err = rig.EachMessage(ctx, stream, streams.DesiredFilter(site.Name), 1, func(m rig.StoredMessage) error {
		if streams.IsPart(m.Subject) {
			return nil
		}
		_, msg, err := streams.Load(ctx, stream, m.Subject, m.Header, m.Data)
		if err != nil {
			return err
		}
		if msg.Op == streams.OpDelete {
			return nil
		}
		var object map[string]any
		if err := json.Unmarshal(msg.Object, &object); err != nil {
			return err
		}
		out[msg.Ref] = canonical(object)
		return nil
	})
	return out, err
}

// converged returns nil when the site's own stream holds exactly what the API wants.
func converged(site *rig.Site) func(context.Context) error {
	return func(ctx context.Context) error {
		api, err := wanted(ctx, site.Name)
		if err != nil {
			return err
		}
		has, err := stored(ctx, site, streams.SiteDesired)
		if err != nil {
			return err
		}
		if diff := api.changedSince(has); len(diff) > 0 {
			return fmt.Errorf("%s differs from the API in %d objects: %s", site.Name, len(diff), shorten(diff))
		}
		return nil
	}
}

func shorten(refs []streams.Ref) string {
	var names []string
	for _, r := range refs[:min(len(refs), 8)] {
		names = append(names, r.String())
	}
	if len(refs) > 8 {
		names = append(names, "…")
	}
	return strings.Join(names, ", ")
}
