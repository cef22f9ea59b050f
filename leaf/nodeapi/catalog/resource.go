package catalog

import (
	"errors"
	"maps"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/petiole-io/petiole/leaf/nodeapi/objects"
)

// ErrCloudOnly is the reason for rejecting a write that can only be made in the cloud.
var ErrCloudOnly = errors.New("this is a site's node API, which serves what the cloud decided: " +
	"make the change at the cloud's API server, it arrives here over the link")

// CloudOnly returns the error of a write that can only be made in the cloud.
func CloudOnly(gr schema.GroupResource, name string) error {
	return apierrors.NewForbidden(gr, name, ErrCloudOnly)
}

// Resource is a resource as it is served.
type Resource struct {
	objects.Resource
	shortNames []string
	// verbs lists the supported verbs other than get, list and watch.
	verbs []string
	// Subresources holds the verbs of each subresource.
	Subresources map[string][]string
	// refusal is the reason for which an unsupported write is rejected. If it is empty the
	// write has to be made in the cloud.
	refusal string
}

// Verbs returns the supported verbs.
func (r Resource) Verbs() []string {
	if r.Virtual {
		return r.verbs
	}
	return append([]string{"get", "list", "watch"}, r.verbs...)
}

// Refuse returns the error of an unsupported write.
func (r Resource) Refuse(name string) error {
	if r.refusal == "" {
		return CloudOnly(r.GroupResource(), name)
	}
	return apierrors.NewForbidden(r.GroupResource(), name, errors.New(r.refusal))
}

// builtin returns a read-only resource of version v1.
func builtin(group, name, kind string, namespaced bool, shortNames ...string) Resource {
	gvr := schema.GroupVersionResource{Group: group, Version: "v1", Resource: name}
	return Resource{Resource: objects.Resource{GroupVersionResource: gvr, Kind: kind, Namespaced: namespaced}, shortNames: shortNames}
}

func (r Resource) withVerbs(verbs ...string) Resource { r.verbs = verbs; return r }

func (r Resource) withSubresource(name string, verbs ...string) Resource {
	all := map[string][]string{name: verbs}
	maps.Copy(all, r.Subresources)
	r.Subresources = all
	return r
}

func (r Resource) withRefusal(reason string) Resource { r.refusal = reason; return r }

// asVirtual makes r a resource that answers a create and stores nothing.
func (r Resource) asVirtual() Resource { r.Virtual, r.verbs = true, []string{"create"}; return r }

// builtins lists the resources that a kubelet and the usual clients of a node request. Other
// resources are served as soon as one of their objects arrives.
var builtins = []Resource{
	builtin("", "pods", "Pod", true, "po").withVerbs("create", "delete").withSubresource("status", "get", "patch", "update").
		withSubresource("log", "get").withSubresource("exec", "create", "get").withSubresource("attach", "create", "get").withSubresource("portforward", "create", "get"),
	builtin("", "nodes", "Node", false, "no").withVerbs("create", "patch", "update").withSubresource("status", "get", "patch", "update"),
	builtin("", "configmaps", "ConfigMap", true, "cm"),
	builtin("", "secrets", "Secret", true),
	builtin("", "services", "Service", true, "svc"),
	builtin("", "endpoints", "Endpoints", true, "ep"),
	builtin("", "serviceaccounts", "ServiceAccount", true, "sa").withSubresource("token", "create"),
	builtin("", "namespaces", "Namespace", false, "ns"),
	builtin("", "persistentvolumes", "PersistentVolume", false, "pv").withRefusal(noExpansion),
	builtin("", "persistentvolumeclaims", "PersistentVolumeClaim", true, "pvc").withRefusal(noExpansion),
	builtin("", "events", "Event", true, "ev").withVerbs("create", "patch", "update"),
	builtin("coordination.k8s.io", "leases", "Lease", true).withVerbs("create", "delete", "patch", "update"),
	builtin("storage.k8s.io", "csinodes", "CSINode", false).withVerbs("create", "delete", "patch", "update").
		withRefusal("this is a site's node API, which takes no status of a CSINode: leave the kubelet's feature gate CSIVolumeHealth off"),
	builtin("storage.k8s.io", "csidrivers", "CSIDriver", false),
	builtin("storage.k8s.io", "volumeattachments", "VolumeAttachment", false).
		withRefusal("this is a site's node API, and volumes are attached by the cloud: leave enableControllerAttachDetach of the KubeletConfiguration on"),
	builtin("storage.k8s.io", "storageclasses", "StorageClass", false, "sc"),
	builtin("node.k8s.io", "runtimeclasses", "RuntimeClass", false),
	builtin("discovery.k8s.io", "endpointslices", "EndpointSlice", true),
	builtin("apiextensions.k8s.io", "customresourcedefinitions", "CustomResourceDefinition", false, "crd", "crds"),
	builtin("networking.k8s.io", "servicecidrs", "ServiceCIDR", false),
	builtin("certificates.k8s.io", "podcertificaterequests", "PodCertificateRequest", true).withVerbs("create"),
	builtin("certificates.k8s.io", "clustertrustbundles", "ClusterTrustBundle", false),
	builtin("resource.k8s.io", "resourceslices", "ResourceSlice", false).withVerbs("deletecollection"),
	builtin("resource.k8s.io", "resourceclaims", "ResourceClaim", true),
	builtin("rbac.authorization.k8s.io", "roles", "Role", true),
	builtin("rbac.authorization.k8s.io", "clusterroles", "ClusterRole", false),
	builtin("rbac.authorization.k8s.io", "rolebindings", "RoleBinding", true),
	builtin("rbac.authorization.k8s.io", "clusterrolebindings", "ClusterRoleBinding", false),
	builtin("authentication.k8s.io", "tokenreviews", "TokenReview", false).asVirtual(),
	builtin("authorization.k8s.io", "subjectaccessreviews", "SubjectAccessReview", false).asVirtual(),
}

const noExpansion = "this is a site's node API, and volumes are not expanded at a site: expand the volume by hand"

// unserved holds the resources that a kubelet, depending on its configuration, or kube-proxy may
// request, and the reason why a site does not serve them.
var unserved = map[schema.GroupResource]string{
	{Group: "certificates.k8s.io", Resource: "certificatesigningrequests"}: "this is a site's node API, which signs no certificates: " +
		"set serverTLSBootstrap and rotateCertificates of the KubeletConfiguration to false",
	{Group: "events.k8s.io", Resource: "events"}: "this is a site's node API, where only the kubelet records events: read them in the core group",
}

// builtinOf holds the builtins by group and resource.
var builtinOf = func() map[schema.GroupResource]Resource {
	m := make(map[schema.GroupResource]Resource, len(builtins))
	for _, r := range builtins {
		m[r.GroupResource()] = r
	}
	return m
}()

// Unserved returns the reason why a site does not serve a resource that a kubelet or kube-proxy may
// request, empty if there is no such resource.
func Unserved(gr schema.GroupResource) string { return unserved[gr] }

// Builtins returns the built-in resources for the store.
func Builtins() []objects.Resource {
	out := make([]objects.Resource, 0, len(builtins))
	for _, r := range builtins {
		out = append(out, r.Resource)
	}
	return out
}

// Served returns how a resource of the store is served: one that is not built in is read only.
func Served(r objects.Resource) Resource {
	if b, ok := builtinOf[r.GroupResource()]; ok {
		return b
	}
	return Resource{Resource: r, shortNames: r.ShortNames}
}
