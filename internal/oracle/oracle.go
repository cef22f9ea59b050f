// Package oracle computes the desired state of a site from the API server alone, with code
// of its own, so that the bridge's result can be compared with it. The end-to-end suite,
// the breaker suite and the benchmarks call it. It covers the resources that they use.
package oracle

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/streams"
)

// DevicesGroup is the API group of devices.
const DevicesGroup = "devices.kubeedge.io"

// Content maps each object to the canonical JSON of the parts that a site needs.
type Content map[streams.Ref]string

// API is a snapshot of the objects of an API server, by resource.
type API map[schema.GroupVersionResource][]unstructured.Unstructured

// Read lists all objects that a site may need.
func Read(ctx context.Context, client dynamic.Interface) (API, error) {
	a := API{}
	for _, gvr := range []schema.GroupVersionResource{
		Core("nodes"), Core("pods"), Core("namespaces"), Core("services"), EndpointSlices,
		Core("configmaps"), Core("secrets"), Core("serviceaccounts"), Device("devices"), Device("devicemodels"),
		RBAC("roles"), RBAC("clusterroles"), RBAC("rolebindings"), RBAC("clusterrolebindings"), ServiceCIDRs,
	} {
		l, err := client.Resource(gvr).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", gvr.Resource, err)
		}
		a[gvr] = l.Items
	}
	return a, nil
}

// Desired reads the API server and returns the desired state of a site.
func Desired(ctx context.Context, client dynamic.Interface, site string) (Content, error) {
	a, err := Read(ctx, client)
	if err != nil {
		return nil, err
	}
	return a.Desired(site)
}

// Desired returns the desired state of a site. EndpointSlices have the endpoints at the site's nodes,
// and those at no node.
func (a API) Desired(site string) (Content, error) {
	local, err := a.withEndpointsOf(site)
	if err != nil {
		return nil, err
	}
	c := collector{API: local, out: Content{}}
	if err := c.collect(site); err != nil {
		return nil, fmt.Errorf("compute the desired state of %s: %w", site, err)
	}
	return c.out, nil
}

// withEndpointsOf returns a copy whose EndpointSlices have no endpoints at the nodes of other sites.
func (a API) withEndpointsOf(site string) (API, error) {
	nodes := map[string]bool{}
	for _, n := range a[Core("nodes")] {
		nodes[n.GetName()] = n.GetLabels()[v1alpha1.SiteLabel] == site
	}
	local := maps.Clone(a)
	local[EndpointSlices] = nil
	for _, slice := range a[EndpointSlices] {
		endpoints, found, err := unstructured.NestedSlice(slice.Object, "endpoints")
		if err != nil {
			return nil, err
		}
		if found {
			slice = *slice.DeepCopy()
			endpoints = slices.DeleteFunc(endpoints, func(e any) bool {
				node, ok := e.(map[string]any)["nodeName"].(string)
				return ok && !nodes[node]
			})
			if err := unstructured.SetNestedSlice(slice.Object, endpoints, "endpoints"); err != nil {
				return nil, err
			}
		}
		local[EndpointSlices] = append(local[EndpointSlices], slice)
	}
	return local, nil
}

type collector struct {
	API
	out Content
}

// Core returns a resource of the core group.
func Core(resource string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Version: "v1", Resource: resource}
}

// Device returns a resource of the group DevicesGroup.
func Device(resource string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: DevicesGroup, Version: "v1beta1", Resource: resource}
}

// RBAC returns a resource of the group of roles and their bindings.
func RBAC(resource string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: resource}
}

// EndpointSlices is the resource of endpoint slices.
var EndpointSlices = schema.GroupVersionResource{Group: "discovery.k8s.io", Version: "v1", Resource: "endpointslices"}

// ServiceCIDRs is the resource of the ranges of the addresses of services, which every site needs.
var ServiceCIDRs = schema.GroupVersionResource{Group: "networking.k8s.io", Version: "v1", Resource: "servicecidrs"}

func (c collector) collect(site string) error {
	nodes := map[string]bool{}
	for _, n := range c.API[Core("nodes")] {
		if n.GetLabels()[v1alpha1.SiteLabel] == site {
			nodes[n.GetName()] = true
			c.add(Core("nodes"), n.GetName(), n)
		}
	}
	namespaces, subjects := map[string]bool{}, map[string]bool{}
	for _, p := range c.API[Core("pods")] {
		node, _, err := unstructured.NestedString(p.Object, "spec", "nodeName")
		if err != nil || !nodes[node] {
			continue
		}
		c.add(Core("pods"), node, p)
		namespaces[p.GetNamespace()] = true
		account, _, err := unstructured.NestedString(p.Object, "spec", "serviceAccountName")
		if err != nil {
			return err
		}
		subjects["ServiceAccount "+p.GetNamespace()+"/"+account] = true
		subjects["Group system:serviceaccounts:"+p.GetNamespace()] = true
		if err := c.addReferences(p); err != nil {
			return err
		}
	}
	c.addNamespaces(namespaces)
	for _, cidr := range c.API[ServiceCIDRs] {
		c.add(ServiceCIDRs, "", cidr)
	}
	if len(namespaces) > 0 {
		subjects["Group system:serviceaccounts"], subjects["Group system:authenticated"] = true, true
	}
	if err := c.addRoles(subjects); err != nil {
		return err
	}
	return c.addDevices(nodes)
}

// addNamespaces adds the namespaces of pods with their services, and the service
// default/kubernetes, by which pods find the API server.
func (c collector) addNamespaces(namespaces map[string]bool) {
	for ns := range namespaces {
		c.addNamed(Core("namespaces"), "", ns)
	}
	for _, gvr := range []schema.GroupVersionResource{Core("services"), EndpointSlices} {
		for _, s := range c.API[gvr] {
			if namespaces[s.GetNamespace()] || s.GetNamespace() == "default" && s.GetName() == "kubernetes" {
				c.add(gvr, "", s)
			}
		}
	}
}

// addRoles adds the bindings that grant something to one of the subjects, with their roles, but for
// those by which Kubernetes grants something to everybody.
func (c collector) addRoles(subjects map[string]bool) error {
	for _, gvr := range []schema.GroupVersionResource{RBAC("rolebindings"), RBAC("clusterrolebindings")} {
		for _, u := range c.API[gvr] {
			var b rbacv1.RoleBinding
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &b); err != nil {
				return err
			}
			granted := slices.ContainsFunc(b.Subjects, func(s rbacv1.Subject) bool {
				if s.Kind == rbacv1.ServiceAccountKind {
					return subjects[s.Kind+" "+s.Namespace+"/"+s.Name]
				}
				return b.Labels["kubernetes.io/bootstrapping"] == "" && subjects[s.Kind+" "+s.Name]
			})
			if !granted {
				continue
			}
			c.add(gvr, "", u)
			if b.RoleRef.Kind == "Role" {
				c.addNamed(RBAC("roles"), b.Namespace, b.RoleRef.Name)
			} else {
				c.addNamed(RBAC("clusterroles"), "", b.RoleRef.Name)
			}
		}
	}
	return nil
}

func (c collector) addDevices(nodes map[string]bool) error {
	for _, d := range c.API[Device("devices")] {
		node, _, err := unstructured.NestedString(d.Object, "spec", "nodeName")
		if err != nil || !nodes[node] {
			continue
		}
		c.add(Device("devices"), node, d)
		model, _, err := unstructured.NestedString(d.Object, "spec", "deviceModelRef", "name")
		if err != nil {
			return err
		}
		c.addNamed(Device("devicemodels"), d.GetNamespace(), model)
	}
	return nil
}

// addReferences adds the objects that a pod refers to. It finds them by the JSON keys
// under which a name may stand.
func (c collector) addReferences(pod unstructured.Unstructured) error {
	data, err := json.Marshal(pod.Object["spec"])
	if err != nil {
		return err
	}
	var spec corev1.PodSpec
	if err := json.Unmarshal(data, &spec); err != nil {
		return err
	}
	ns := pod.GetNamespace()
	needed := map[schema.GroupVersionResource]map[string]bool{Core("configmaps"): {}, Core("secrets"): {}, Core("serviceaccounts"): {spec.ServiceAccountName: true}}
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
					needed[Core("configmaps")][name] = ok
				case "secret":
					if secretName, isVolume := m["secretName"].(string); isVolume {
						name = secretName
					}
					needed[Core("secrets")][name] = ok
				case "secretRef", "secretKeyRef":
					needed[Core("secrets")][name] = ok
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
	for gvr, names := range needed {
		for name, ok := range names {
			if !ok || name == "" {
				continue
			}
			c.addNamed(gvr, ns, name)
		}
	}
	return nil
}

// addNamed adds one object if it exists.
func (c collector) addNamed(gvr schema.GroupVersionResource, namespace, name string) {
	for _, e := range c.API[gvr] {
		if e.GetNamespace() == namespace && e.GetName() == name {
			c.add(gvr, "", e)
		}
	}
}

func (c collector) add(gvr schema.GroupVersionResource, node string, u unstructured.Unstructured) {
	ref := streams.Ref{Node: node, Group: gvr.Group, Resource: gvr.Resource, Namespace: u.GetNamespace(), Name: u.GetName()}
	c.out[ref] = Canonical(u.Object)
}

// Canonical returns the JSON of the parts of an object that a site needs, with sorted keys:
// without status and version counters, for a node without the taints that the cloud sets while the
// link is down, and for an EndpointSlice without the time of its last change.
func Canonical(object map[string]any) string {
	u := unstructured.Unstructured{Object: object}
	c := u.DeepCopy()
	unstructured.RemoveNestedField(c.Object, "status")
	unstructured.RemoveNestedField(c.Object, "metadata", "managedFields")
	unstructured.RemoveNestedField(c.Object, "metadata", "resourceVersion")
	unstructured.RemoveNestedField(c.Object, "metadata", "generation")
	if c.GetKind() == "EndpointSlice" {
		annotations := c.GetAnnotations()
		if delete(annotations, corev1.EndpointsLastChangeTriggerTime); len(annotations) == 0 {
			annotations = nil
		}
		c.SetAnnotations(annotations)
	}
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

// ChangedSince returns the objects that were added, removed or changed, in order.
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

// Shorten returns the names of the first eight objects.
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
