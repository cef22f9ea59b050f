package nodeapi

import (
	"errors"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/petiole-io/petiole/leaf/nodeapi/objects"
)

// resource is a served resource, in the only version in which it is stored.
type resource struct {
	schema.GroupVersionResource
	kind       string
	short      []string
	namespaced bool
	// verbs lists the supported verbs other than get, list and watch.
	verbs []string
	// subs holds the verbs of each subresource.
	subs map[string][]string
	// virtual is set for resources that answer a create and store nothing.
	virtual bool
	// refusalReason is the reason for which an unsupported write is rejected. If it is empty
	// the write has to be made in the cloud.
	refusalReason string
}

func (r resource) gvk() schema.GroupVersionKind { return r.GroupVersion().WithKind(r.kind) }

func (r resource) verbList() []string {
	if r.virtual {
		return r.verbs
	}
	return append([]string{"get", "list", "watch"}, r.verbs...)
}

func builtin(group, version, name, kind string, namespaced bool, short ...string) resource {
	return resource{
		GroupVersionResource: schema.GroupVersionResource{Group: group, Version: version, Resource: name},
		kind:                 kind, namespaced: namespaced, short: short,
	}
}

func (r resource) withVerbs(verbs ...string) resource { r.verbs = verbs; return r }

func (r resource) withSubresource(name string, verbs ...string) resource {
	r.subs = map[string][]string{name: verbs}
	return r
}

// withRefusal sets the reason for which an unsupported write is rejected.
func (r resource) withRefusal(reason string) resource { r.refusalReason = reason; return r }

// refusal returns the error of an unsupported write.
func (r resource) refusal(name string) error {
	if r.refusalReason == "" {
		return forbidden(r.GroupResource(), name)
	}
	return apierrors.NewForbidden(r.GroupResource(), name, errors.New(r.refusalReason))
}

func (r resource) asVirtual() resource { r.virtual, r.verbs = true, []string{"create"}; return r }

// The resources that only the API treats specially.
var (
	leasesGR          = schema.GroupResource{Group: "coordination.k8s.io", Resource: "leases"}
	serviceAccountsGR = schema.GroupResource{Resource: "serviceaccounts"}
)

// builtins lists the resources that a kubelet and the usual clients of a node request. Other
// resources are served as soon as one of their objects arrives.
var builtins = []resource{
	builtin("", "v1", "pods", "Pod", true, "po").withVerbs("create", "delete").withSubresource("status", "get", "patch", "update"),
	builtin("", "v1", "nodes", "Node", false, "no").withVerbs("create", "patch", "update").withSubresource("status", "get", "patch", "update"),
	builtin("", "v1", "configmaps", "ConfigMap", true, "cm"),
	builtin("", "v1", "secrets", "Secret", true),
	builtin("", "v1", "services", "Service", true, "svc"),
	builtin("", "v1", "endpoints", "Endpoints", true, "ep"),
	builtin("", "v1", "serviceaccounts", "ServiceAccount", true, "sa").withSubresource("token", "create"),
	builtin("", "v1", "namespaces", "Namespace", false, "ns"),
	builtin("", "v1", "persistentvolumes", "PersistentVolume", false, "pv").withRefusal(noExpansion),
	builtin("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", true, "pvc").withRefusal(noExpansion),
	builtin("", "v1", "events", "Event", true, "ev").withVerbs("create", "patch", "update"),
	builtin("coordination.k8s.io", "v1", "leases", "Lease", true).withVerbs("create", "delete", "patch", "update"),
	builtin("storage.k8s.io", "v1", "csinodes", "CSINode", false).withVerbs("create", "delete", "patch", "update").
		withRefusal("this is a site's node API, which takes no status of a CSINode: leave the kubelet's feature gate CSIVolumeHealth off"),
	builtin("storage.k8s.io", "v1", "csidrivers", "CSIDriver", false),
	builtin("storage.k8s.io", "v1", "volumeattachments", "VolumeAttachment", false).
		withRefusal("this is a site's node API, and volumes are attached by the cloud: leave enableControllerAttachDetach of the KubeletConfiguration on"),
	builtin("storage.k8s.io", "v1", "storageclasses", "StorageClass", false, "sc"),
	builtin("node.k8s.io", "v1", "runtimeclasses", "RuntimeClass", false),
	builtin("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", true),
	builtin("certificates.k8s.io", "v1", "podcertificaterequests", "PodCertificateRequest", true).
		withRefusal("this is a site's node API, and no certificates for pods are issued at a site: use a projected service account token"),
	builtin("certificates.k8s.io", "v1", "clustertrustbundles", "ClusterTrustBundle", false),
	builtin("resource.k8s.io", "v1", "resourceslices", "ResourceSlice", false).withVerbs("deletecollection"),
	builtin("resource.k8s.io", "v1", "resourceclaims", "ResourceClaim", true),
	builtin("authentication.k8s.io", "v1", "tokenreviews", "TokenReview", false).asVirtual(),
	builtin("authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", false).asVirtual(),
}

const noExpansion = "this is a site's node API, and volumes are not expanded at a site: expand the volume by hand"

// unserved holds the resources that a kubelet may request, depending on its configuration, and
// the reason why a site cannot serve them.
var unserved = map[schema.GroupResource]string{
	{Group: "certificates.k8s.io", Resource: "certificatesigningrequests"}: "this is a site's node API, which signs no certificates: " +
		"set serverTLSBootstrap and rotateCertificates of the KubeletConfiguration to false",
}

// builtinOf holds the builtins by group and resource.
var builtinOf = func() map[schema.GroupResource]resource {
	m := make(map[schema.GroupResource]resource, len(builtins))
	for _, r := range builtins {
		m[r.GroupResource()] = r
	}
	return m
}()

// storedResources returns the built-in resources for the store.
func storedResources() []objects.Resource {
	out := make([]objects.Resource, 0, len(builtins))
	for _, r := range builtins {
		out = append(out, objects.Resource{
			GroupVersionResource: r.GroupVersionResource, Kind: r.kind, Namespaced: r.namespaced, Virtual: r.virtual,
		})
	}
	return out
}

// served returns how a resource of the store is served: one that is not built in is read only.
func served(r objects.Resource) resource {
	if b, ok := builtinOf[r.GroupResource()]; ok {
		return b
	}
	return resource{GroupVersionResource: r.GroupVersionResource, kind: r.Kind, namespaced: r.Namespaced}
}
