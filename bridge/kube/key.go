package kube

import (
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/petiole-io/petiole/streams"
)

// Key identifies an object of a watched resource.
type Key struct{ Group, Resource, Namespace, Name string }

func (k Key) cacheKey() string {
	if k.Namespace == "" {
		return k.Name
	}
	return k.Namespace + "/" + k.Name
}

// Ref returns the reference of the object in a subject, with a node token.
func (k Key) Ref(node string) streams.Ref {
	return streams.Ref{Node: node, Group: k.Group, Resource: k.Resource, Namespace: k.Namespace, Name: k.Name}
}

// KeyOf returns the key of the object that a subject refers to.
func KeyOf(r streams.Ref) Key {
	return Key{Group: r.Group, Resource: r.Resource, Namespace: r.Namespace, Name: r.Name}
}

// CoreKey returns the key of an object of the core group. namespace is empty for a
// cluster-scoped resource.
func CoreKey(resource, namespace, name string) Key {
	return Key{Resource: resource, Namespace: namespace, Name: name}
}

// SiteKey returns the key of a Site.
func SiteKey(site string) Key { return Key{Group: SiteGroup, Resource: "sites", Name: site} }

// DefinitionKey returns the key of the CustomResourceDefinition of a resource.
func DefinitionKey(gr schema.GroupResource) Key {
	return Key{Group: ExtensionsGroup, Resource: "customresourcedefinitions", Name: gr.String()}
}

// CSINodeKey returns the key of a node's CSINode.
func CSINodeKey(node string) Key {
	return Key{Group: StorageGroup, Resource: "csinodes", Name: node}
}

// IsCSINode reports whether an object is a CSINode.
func IsCSINode(r streams.Ref) bool { return r.Group == StorageGroup && r.Resource == "csinodes" }

// The API groups of the watched resources, besides the core group.
const (
	ExtensionsGroup   = "apiextensions.k8s.io"
	CertificatesGroup = "certificates.k8s.io"
	DeviceGroup       = "devices.kubeedge.io"
	DiscoveryGroup    = "discovery.k8s.io"
	NetworkingGroup   = "networking.k8s.io"
	NodeGroup         = "node.k8s.io"
	RBACGroup         = "rbac.authorization.k8s.io"
	ResourceGroup     = "resource.k8s.io"
	StorageGroup      = "storage.k8s.io"
	SiteGroup         = "petiole.dev"
)

// watched are the resources that the bridge watches, in the order of publication within a
// site: what a pod needs comes before the pod.
var watched = []schema.GroupVersionResource{
	{Group: SiteGroup, Version: "v1alpha1", Resource: "sites"},
	{Version: "v1", Resource: "nodes"},
	{Version: "v1", Resource: "namespaces"},
	{Group: ExtensionsGroup, Version: "v1", Resource: "customresourcedefinitions"},
	{Version: "v1", Resource: "serviceaccounts"},
	{Group: RBACGroup, Version: "v1", Resource: "roles"},
	{Group: RBACGroup, Version: "v1", Resource: "clusterroles"},
	{Group: RBACGroup, Version: "v1", Resource: "rolebindings"},
	{Group: RBACGroup, Version: "v1", Resource: "clusterrolebindings"},
	{Version: "v1", Resource: "configmaps"},
	{Version: "v1", Resource: "secrets"},
	{Version: "v1", Resource: "persistentvolumes"},
	{Version: "v1", Resource: "persistentvolumeclaims"},
	{Group: StorageGroup, Version: "v1", Resource: "csidrivers"},
	{Group: StorageGroup, Version: "v1", Resource: "volumeattachments"},
	{Group: ResourceGroup, Version: "v1", Resource: "resourceclaims"},
	{Group: CertificatesGroup, Version: "v1", Resource: "clustertrustbundles"},
	{Group: NodeGroup, Version: "v1", Resource: "runtimeclasses"},
	{Group: NetworkingGroup, Version: "v1", Resource: "servicecidrs"},
	{Version: "v1", Resource: "services"},
	{Group: DiscoveryGroup, Version: "v1", Resource: "endpointslices"},
	{Group: DeviceGroup, Version: "v1beta1", Resource: "devicemodels"},
	{Version: "v1", Resource: "pods"},
	{Group: DeviceGroup, Version: "v1beta1", Resource: "devices"},
	{Group: DeviceGroup, Version: "v1beta1", Resource: "devicestatuses"},
	{Group: StorageGroup, Version: "v1", Resource: "csinodes"},
	{Group: CertificatesGroup, Version: "v1", Resource: "podcertificaterequests"},
}

// isOptional reports whether an API server that the bridge supports may lack a resource:
// Kubernetes has ServiceCIDRs from 1.33 on, ResourceClaims from 1.34 on, the two of
// certificates.k8s.io from 1.37 on, and most of them can be turned off.
func isOptional(r schema.GroupVersionResource) bool {
	return r.Group == NetworkingGroup || r.Group == ResourceGroup || r.Group == CertificatesGroup
}

var publishRank = func() map[schema.GroupResource]int {
	m := map[schema.GroupResource]int{}
	for i, r := range watched {
		m[r.GroupResource()] = i
	}
	return m
}()

// GroupResource returns the resource of the object, without its version.
func (k Key) GroupResource() schema.GroupResource {
	return schema.GroupResource{Group: k.Group, Resource: k.Resource}
}

// Rank orders objects for publication within a site: what a pod needs has a lower rank than
// the pod. The rank of a selected object is 0.
func (k Key) Rank() int { return publishRank[k.GroupResource()] }

// VersionedResource returns the resource with the version in which it is watched. It returns
// false if the resource is not watched.
func (k Key) VersionedResource() (schema.GroupVersionResource, bool) {
	i, ok := publishRank[k.GroupResource()]
	if !ok {
		return schema.GroupVersionResource{}, false
	}
	return watched[i], true
}

// NamesNode reports whether spec.nodeName of the resource's objects names the one node that reads
// them, although nothing runs there because of them: attachments of volumes and requests for
// certificates of pods.
func (k Key) NamesNode() bool {
	return k.Group == StorageGroup && k.Resource == "volumeattachments" || k.Group == CertificatesGroup && k.Resource == "podcertificaterequests"
}

// IsSelected reports whether a site gets the resource's objects only because its Site selects them:
// custom resources, of which the bridge knows nothing else.
func (k Key) IsSelected() bool {
	_, known := publishRank[k.GroupResource()]
	return !known
}

// IsEndpointSlice reports whether an object is an EndpointSlice.
func (k Key) IsEndpointSlice() bool {
	return k.Group == DiscoveryGroup && k.Resource == "endpointslices"
}

// IsRoleBinding reports whether the resource's objects grant the rules of a role to subjects.
func (k Key) IsRoleBinding() bool {
	return k.Group == RBACGroup && (k.Resource == "rolebindings" || k.Resource == "clusterrolebindings")
}

// BindsToNode reports whether objects of the resource are bound to a node: pods and devices.
func (k Key) BindsToNode() bool {
	return k.Group == "" && k.Resource == "pods" || k.Group == DeviceGroup && k.Resource == "devices"
}

// StringAt returns the string at a path of an object, empty if there is none.
func StringAt(o *unstructured.Unstructured, path ...string) string {
	s, found, err := unstructured.NestedString(o.Object, path...)
	if !found || err != nil {
		return ""
	}
	return s
}
