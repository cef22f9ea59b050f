package world

import (
	"net/url"
	"testing"
)

func TestIsList(t *testing.T) {
	for path, want := range map[string]bool{
		"/api/v1/pods": true, "/api/v1/namespaces/x/pods": true, "/api/v1/namespaces": true, "/apis/petiole.dev/v1alpha1/sites": true,
		"/apis/coordination.k8s.io/v1/namespaces/x/leases": true,
		"/api/v1/namespaces/x":                             false, "/api/v1/namespaces/x/pods/y": false, "/api/v1/namespaces/x/pods/y/status": false,
		"/apis/petiole.dev/v1alpha1/sites/a": false, "/api/v1/pods?watch=true": false, "/version": false, "/api/v1": false, "/readyz": false,
	} {
		u, err := url.Parse(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := isList(u); got != want {
			t.Errorf("isList(%s) = %t", path, got)
		}
	}
}

// TestTermsGrow: the count of terms goes on when the lease's own count goes back with
// the storage.
func TestTermsGrow(t *testing.T) {
	var e election
	for i, c := range []struct {
		holder      string
		transitions int32
		want        int64
	}{{"a", 0, 1}, {"a", 0, 1}, {"b", 1, 2}, {"b", 1, 2}, {"b", 3, 3}, {"b", 0, 4}, {"a", 1, 5}} {
		if got := e.won(c.holder, c.transitions); got != c.want {
			t.Errorf("step %d: term %d, want %d", i, got, c.want)
		}
	}
}
