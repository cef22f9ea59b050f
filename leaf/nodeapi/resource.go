package nodeapi

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/petiole-io/petiole/streams"
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

// The resources that need special treatment.
var (
	podsGR            = schema.GroupResource{Resource: "pods"}
	nodesGR           = schema.GroupResource{Resource: "nodes"}
	eventsGR          = schema.GroupResource{Resource: "events"}
	configMapsGR      = schema.GroupResource{Resource: "configmaps"}
	secretsGR         = schema.GroupResource{Resource: "secrets"}
	leasesGR          = schema.GroupResource{Group: "coordination.k8s.io", Resource: "leases"}
	csiNodesGR        = schema.GroupResource{Group: "storage.k8s.io", Resource: "csinodes"}
	resourceSlicesGR  = schema.GroupResource{Group: "resource.k8s.io", Resource: "resourceslices"}
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

// catalog holds the served resources. It is guarded by the store's lock.
type catalog map[schema.GroupResource]resource

func newCatalog() catalog {
	c := make(catalog, len(builtins))
	for _, r := range builtins {
		c[r.GroupResource()] = r
	}
	return c
}

func (c catalog) sorted() []resource {
	out := make([]resource, 0, len(c))
	for _, r := range c {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b resource) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Resource, b.Resource))
	})
	return out
}

// admit adds the resource of a desired object to the catalog. It returns an error if the group
// or version of the body differs from the subject or from the served resource.
func (c catalog) admit(m streams.Message) error {
	var tm struct{ APIVersion, Kind string }
	if err := json.Unmarshal(m.Object, &tm); err != nil {
		return fmt.Errorf("%w: %s: %w", streams.ErrUndecodable, m.Ref, err)
	}
	gv, err := schema.ParseGroupVersion(tm.APIVersion)
	if err != nil || gv.Group != m.Group || gv.Version == "" || tm.Kind == "" {
		return fmt.Errorf("%w: %s: apiVersion is %q, kind is %q", streams.ErrUndecodable, m.Ref, tm.APIVersion, tm.Kind)
	}
	gr := schema.GroupResource{Group: m.Group, Resource: m.Resource}
	if r, ok := c[gr]; ok {
		if r.Version != gv.Version || r.kind != tm.Kind || r.namespaced != (m.Namespace != "") || r.virtual {
			return fmt.Errorf("%w: %s: the kind is %s, want %s", streams.ErrUndecodable, m.Ref, gv.WithKind(tm.Kind), r.gvk())
		}
		return nil
	}
	c[gr] = resource{GroupVersionResource: gv.WithResource(m.Resource), kind: tm.Kind, namespaced: m.Namespace != ""}
	return nil
}
