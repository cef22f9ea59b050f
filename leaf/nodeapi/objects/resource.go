package objects

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/petiole-io/petiole/streams"
)

// Resource is a resource of the store, in the only version in which it is stored.
type Resource struct {
	schema.GroupVersionResource
	Kind       string
	Namespaced bool
	// Virtual is set for a resource that has no objects.
	Virtual bool
	// Custom is set for a resource that came with its objects, or with its definition, and goes with
	// them. It has names and columns for clients if it came with its definition.
	Custom     bool
	Singular   string
	ShortNames []string
	Categories []string
	Columns    []Column
}

// Column is a column of the tables in which clients show objects, beside their name.
type Column struct {
	Name, Type, Format, Description string
	// JSONPath is where the value is, without braces: .spec.size.
	JSONPath string
	// Priority is 0 for a column that is always shown.
	Priority int32
}

// GVK returns the resource's group, version and kind.
func (r Resource) GVK() schema.GroupVersionKind { return r.GroupVersion().WithKind(r.Kind) }

// The resources that need special treatment.
var (
	Pods       = schema.GroupResource{Resource: "pods"}
	Nodes      = schema.GroupResource{Resource: "nodes"}
	Events     = schema.GroupResource{Resource: "events"}
	ConfigMaps = schema.GroupResource{Resource: "configmaps"}
	Secrets    = schema.GroupResource{Resource: "secrets"}
	CSINodes   = schema.GroupResource{Group: "storage.k8s.io", Resource: "csinodes"}
	Leases     = schema.GroupResource{Group: "coordination.k8s.io", Resource: "leases"}

	Definitions            = schema.GroupResource{Group: "apiextensions.k8s.io", Resource: "customresourcedefinitions"}
	EndpointSlices         = schema.GroupResource{Group: "discovery.k8s.io", Resource: "endpointslices"}
	PodCertificateRequests = schema.GroupResource{Group: "certificates.k8s.io", Resource: "podcertificaterequests"}
)

// catalog holds the resources of the store. It is guarded by the store's lock.
type catalog map[schema.GroupResource]Resource

func newCatalog(resources []Resource) catalog {
	c := make(catalog, len(resources))
	for _, r := range resources {
		c[r.GroupResource()] = r
	}
	return c
}

func (c catalog) sorted() []Resource {
	out := make([]Resource, 0, len(c))
	for _, r := range c {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b Resource) int {
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
	r, ok := c[gr]
	if ok && !r.Custom {
		if r.Version != gv.Version || r.Kind != tm.Kind || r.Namespaced != (m.Namespace != "") || r.Virtual {
			return fmt.Errorf("%w: %s: the kind is %s, want %s", streams.ErrUndecodable, m.Ref, gv.WithKind(tm.Kind), r.GVK())
		}
		return nil
	}
	// The version that the cloud prefers may be another one by now.
	r.GroupVersionResource, r.Kind, r.Namespaced, r.Custom = gv.WithResource(m.Resource), tm.Kind, m.Namespace != "", true
	c[gr] = r
	return nil
}
