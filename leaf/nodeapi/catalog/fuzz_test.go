package catalog

import (
	"strings"
	"testing"
)

// FuzzRoute parses paths: a name never contains a slash.
func FuzzRoute(f *testing.F) {
	for _, s := range []string{"/api/v1/namespaces/default/pods/web/status", "/apis/coordination.k8s.io/v1/leases", "/api/v1/namespaces/default", "/healthz", "//", "/api/v1/namespaces//pods"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		rt, ok := ParseRoute(path)
		if !ok {
			return
		}
		for _, part := range []string{rt.Group, rt.Version, rt.Resource, rt.Namespace, rt.Name, rt.Sub} {
			if strings.Contains(part, "/") || !strings.Contains(path, part) {
				t.Fatalf("%q is read as %+v", path, rt)
			}
		}
	})
}
