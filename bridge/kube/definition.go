package kube

import (
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
)

// stripDefinition reduces a CustomResourceDefinition to what a client has to know to read the
// objects: group, scope, names, and the served version that clients prefer, without its schema.
func stripDefinition(o *unstructured.Unstructured) {
	spec, _ := o.Object["spec"].(map[string]any)
	if spec == nil {
		return
	}
	all, _ := spec["versions"].([]any)
	var preferred []any
	for _, v := range all {
		v, _ := v.(map[string]any)
		if served, _ := v["served"].(bool); !served {
			continue
		}
		if len(preferred) == 0 || version.CompareKubeAwareVersionStrings(nameOf(v), nameOf(preferred[0])) > 0 {
			preferred = []any{v}
		}
	}
	for _, v := range preferred {
		fields, _ := v.(map[string]any)
		delete(fields, "schema")
	}
	spec["versions"] = preferred
	delete(spec, "conversion")
}

func nameOf(v any) string {
	fields, _ := v.(map[string]any)
	name, _ := fields["name"].(string)
	return name
}

// Defined returns the resource that a CustomResourceDefinition of a Cache defines, in the version
// that clients prefer. It returns false while the API server does not serve it.
func Defined(o *unstructured.Unstructured) (schema.GroupVersionResource, bool) {
	versions, _, _ := unstructured.NestedSlice(o.Object, "spec", "versions")
	if len(versions) == 0 || !established(o) {
		return schema.GroupVersionResource{}, false
	}
	return schema.GroupVersionResource{
		Group: StringAt(o, "spec", "group"), Version: nameOf(versions[0]), Resource: StringAt(o, "spec", "names", "plural"),
	}, true
}

func established(o *unstructured.Unstructured) bool {
	conditions, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	return slices.ContainsFunc(conditions, func(c any) bool {
		fields, _ := c.(map[string]any)
		return fields["type"] == "Established" && fields["status"] == "True"
	})
}
