// Package oracle says what a site shall hold according to the API server alone, by other
// code than the bridge's, so that the two can be compared. The end-to-end suite and the
// breaker suite call it. It covers the resources that these suites use.
package oracle

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/petiole-io/petiole/streams"
)

// SiteLabel on a node names its site.
const SiteLabel = "petiole.dev/site"

// DevicesGroup is the API group of devices.
const DevicesGroup = "devices.kubeedge.io"

// Content is, for each object, the canonical JSON of all that concerns a site.
type Content map[streams.Ref]string

// API is a picture of an API server from which what each site wants is computed.
type API map[schema.GroupVersionResource][]unstructured.Unstructured

// Read lists all that sites may want.
func Read(ctx context.Context, client dynamic.Interface) (API, error) {
	a := API{}
	for _, gvr := range []schema.GroupVersionResource{
		Core("nodes"), Core("pods"), Core("namespaces"), Core("services"), EndpointSlices,
		Core("configmaps"), Core("secrets"), Core("serviceaccounts"), Device("devices"), Device("devicemodels"),
	} {
		l, err := client.Resource(gvr).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", gvr.Resource, err)
		}
		a[gvr] = l.Items
	}
	return a, nil
}

// Wanted is what a site shall hold.
func Wanted(ctx context.Context, client dynamic.Interface, site string) (Content, error) {
	a, err := Read(ctx, client)
	if err != nil {
		return nil, err
	}
	return a.Wanted(site)
}

// Wanted is what a site shall hold.
func (a API) Wanted(site string) (Content, error) {
	w := want{API: a, out: Content{}}
	if err := w.collect(site); err != nil {
		return nil, fmt.Errorf("compute what %s shall have: %w", site, err)
	}
	return w.out, nil
}

type want struct {
	API
	out Content
}

// Core is a resource of the core group.
func Core(resource string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Version: "v1", Resource: resource}
}

// Device is a resource of the devices' group.
func Device(resource string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: DevicesGroup, Version: "v1beta1", Resource: resource}
}

// EndpointSlices is their resource.
var EndpointSlices = schema.GroupVersionResource{Group: "discovery.k8s.io", Version: "v1", Resource: "endpointslices"}

func (w want) collect(site string) error {
	mine := map[string]bool{}
	for _, n := range w.API[Core("nodes")] {
		if n.GetLabels()[SiteLabel] == site {
			mine[n.GetName()] = true
			w.put(Core("nodes"), n.GetName(), n)
		}
	}
	namespaces := map[string]bool{}
	for _, p := range w.API[Core("pods")] {
		node, _, err := unstructured.NestedString(p.Object, "spec", "nodeName")
		if err != nil || !mine[node] {
			continue
		}
		w.put(Core("pods"), node, p)
		namespaces[p.GetNamespace()] = true
		if err := w.podNeeds(p); err != nil {
			return err
		}
	}
	w.namespaced(namespaces)
	return w.devices(mine)
}

// namespaced takes the namespaces of pods with their services, and the one service by
// which pods find the API server.
func (w want) namespaced(namespaces map[string]bool) {
	for ns := range namespaces {
		w.take(Core("namespaces"), "", ns)
	}
	for _, gvr := range []schema.GroupVersionResource{Core("services"), EndpointSlices} {
		for _, s := range w.API[gvr] {
			if namespaces[s.GetNamespace()] || s.GetNamespace() == "default" && s.GetName() == "kubernetes" {
				w.put(gvr, "", s)
			}
		}
	}
}

func (w want) devices(nodes map[string]bool) error {
	for _, d := range w.API[Device("devices")] {
		node, _, err := unstructured.NestedString(d.Object, "spec", "nodeName")
		if err != nil || !nodes[node] {
			continue
		}
		w.put(Device("devices"), node, d)
		model, _, err := unstructured.NestedString(d.Object, "spec", "deviceModelRef", "name")
		if err != nil {
			return err
		}
		w.take(Device("devicemodels"), d.GetNamespace(), model)
	}
	return nil
}

// podNeeds finds every name that a pod refers to by the JSON keys that hold one.
func (w want) podNeeds(pod unstructured.Unstructured) error {
	data, err := json.Marshal(pod.Object["spec"])
	if err != nil {
		return err
	}
	var spec corev1.PodSpec
	if err := json.Unmarshal(data, &spec); err != nil {
		return err
	}
	ns := pod.GetNamespace()
	need := map[schema.GroupVersionResource]map[string]bool{Core("configmaps"): {}, Core("secrets"): {}, Core("serviceaccounts"): {spec.ServiceAccountName: true}}
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
					need[Core("configmaps")][name] = ok
				case "secret":
					if secretName, isVolume := m["secretName"].(string); isVolume {
						name = secretName
					}
					need[Core("secrets")][name] = ok
				case "secretRef", "secretKeyRef":
					need[Core("secrets")][name] = ok
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
			w.take(gvr, ns, name)
		}
	}
	return nil
}

// take adds one object if it exists.
func (w want) take(gvr schema.GroupVersionResource, namespace, name string) {
	for _, e := range w.API[gvr] {
		if e.GetNamespace() == namespace && e.GetName() == name {
			w.put(gvr, "", e)
		}
	}
}

func (w want) put(gvr schema.GroupVersionResource, node string, u unstructured.Unstructured) {
	ref := streams.Ref{Node: node, Group: gvr.Group, Resource: gvr.Resource, Namespace: u.GetNamespace(), Name: u.GetName()}
	w.out[ref] = Canonical(u.Object)
}

// Canonical is what of an object concerns a site, with its keys in order: not the
// version counters, not the status, and of a node not what the cloud says of the link.
func Canonical(object map[string]any) string {
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

// ChangedSince lists the objects that were added, removed or changed.
func (c Content) ChangedSince(before Content) []streams.Ref {
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

// Shorten names the first of many objects.
func Shorten(refs []streams.Ref) string {
	var names []string
	for _, r := range refs[:min(len(refs), 8)] {
		names = append(names, r.String())
	}
	if len(refs) > 8 {
		names = append(names, "…")
	}
	return strings.Join(names, ", ")
}
