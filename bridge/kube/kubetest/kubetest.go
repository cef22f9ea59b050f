// Package kubetest writes down objects of the API server for tests. Nothing outside tests may
// import it.
package kubetest

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/petiole-io/petiole/bridge/kube"
)

// Object parses an object from an ID, "resource[.group] [namespace/]name", and YAML.
func Object(t testing.TB, id, body string) (kube.Key, *unstructured.Unstructured) {
	t.Helper()
	kind, name, _ := strings.Cut(id, " ")
	resource, group, _ := strings.Cut(kind, ".")
	k := kube.Key{Group: group, Resource: resource, Name: name}
	if ns, n, ok := strings.Cut(name, "/"); ok {
		k.Namespace, k.Name = ns, n
	}
	o := map[string]any{}
	if err := yaml.Unmarshal([]byte(body), &o); err != nil {
		t.Fatalf("%s: %v", id, err)
	}
	u := &unstructured.Unstructured{Object: o}
	u.SetName(k.Name)
	u.SetNamespace(k.Namespace)
	return k, u
}
