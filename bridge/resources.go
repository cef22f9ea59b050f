package bridge

import (
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/petiole-io/petiole/streams"
)

// objectKey identifies an object of a watched resource.
type objectKey struct{ Group, Resource, Namespace, Name string }

func (k objectKey) cacheKey() string {
	if k.Namespace == "" {
		return k.Name
	}
	return k.Namespace + "/" + k.Name
}

func (k objectKey) ref(node string) streams.Ref {
	return streams.Ref{Node: node, Group: k.Group, Resource: k.Resource, Namespace: k.Namespace, Name: k.Name}
}

func keyOf(r streams.Ref) objectKey {
	return objectKey{Group: r.Group, Resource: r.Resource, Namespace: r.Namespace, Name: r.Name}
}

func coreKey(resource, namespace, name string) objectKey {
	return objectKey{Resource: resource, Namespace: namespace, Name: name}
}

const (
	deviceGroup    = "devices.kubeedge.io"
	discoveryGroup = "discovery.k8s.io"
	nodeGroup      = "node.k8s.io"
	storageGroup   = "storage.k8s.io"
	siteGroup      = "petiole.dev"
)

// csiNodeKey returns the key of a node's CSINode.
func csiNodeKey(node string) objectKey {
	return objectKey{Group: storageGroup, Resource: "csinodes", Name: node}
}

// watched are the resources that the bridge watches, in the order of publication within a
// site: what a pod needs comes before the pod.
var watched = []schema.GroupVersionResource{
	{Group: siteGroup, Version: "v1alpha1", Resource: "sites"},
	{Version: "v1", Resource: "nodes"},
	{Version: "v1", Resource: "namespaces"},
	{Version: "v1", Resource: "serviceaccounts"},
	{Version: "v1", Resource: "configmaps"},
	{Version: "v1", Resource: "secrets"},
	{Version: "v1", Resource: "persistentvolumes"},
	{Version: "v1", Resource: "persistentvolumeclaims"},
	{Group: storageGroup, Version: "v1", Resource: "csidrivers"},
	{Group: nodeGroup, Version: "v1", Resource: "runtimeclasses"},
	{Version: "v1", Resource: "services"},
	{Group: discoveryGroup, Version: "v1", Resource: "endpointslices"},
	{Group: deviceGroup, Version: "v1beta1", Resource: "devicemodels"},
	{Version: "v1", Resource: "pods"},
	{Group: deviceGroup, Version: "v1beta1", Resource: "devices"},
	{Group: deviceGroup, Version: "v1beta1", Resource: "devicestatuses"},
	{Group: storageGroup, Version: "v1", Resource: "csinodes"},
}

var publishRank = func() map[schema.GroupResource]int {
	m := map[schema.GroupResource]int{}
	for i, r := range watched {
		m[r.GroupResource()] = i
	}
	return m
}()

func (k objectKey) rank() int {
	return publishRank[schema.GroupResource{Group: k.Group, Resource: k.Resource}]
}
