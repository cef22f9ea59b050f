package kube

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
)

var errFenced = errors.New("fenced")

// fenced rejects all requests except reads.
type fenced struct{ next http.RoundTripper }

func (f fenced) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method != http.MethodGet {
		return nil, errFenced
	}
	return f.next.RoundTrip(r)
}

// Only the leader election writes past the fence.
func TestWritesPassTheFence(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	users := map[string]int{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		users[r.Method+" "+r.Header.Get("Impersonate-User")+" "+r.Header.Get("Impersonate-Group")]++
		mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		if r.Method == http.MethodGet {
			_, _ = w.Write([]byte(`{"kind":"PodList","apiVersion":"v1","items":[]}`))
			return
		}
		_, _ = w.Write([]byte(`{"kind":"Lease","apiVersion":"coordination.k8s.io/v1","metadata":{"name":"n","resourceVersion":"2"}}`))
	}))
	t.Cleanup(server.Close)
	for impersonation, group := range map[string]string{ImpersonationConstrained: "", ImpersonationClassic: "system:nodes"} {
		c, err := NewClients(&rest.Config{Host: server.URL, QPS: -1}, impersonation, func(next http.RoundTripper) http.RoundTripper { return fenced{next} })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		as, err := c.As("n")
		if err != nil {
			t.Fatal(err)
		}
		ctx := t.Context()
		resource, _ := CoreKey("pods", "d", "p").VersionedResource()
		for name, write := range map[string]func() error{
			"own": func() error { return c.Own.CoreV1().Pods("d").Delete(ctx, "p", metav1.DeleteOptions{}) },
			"dynamic": func() error {
				return c.Dynamic.Resource(resource).Namespace("d").Delete(ctx, "p", metav1.DeleteOptions{})
			},
			"leases": func() error {
				_, err := c.Leases.Leases("d").Patch(ctx, "n", types.MergePatchType, []byte("{}"), metav1.PatchOptions{})
				return err
			},
			"node":         func() error { return as.Core.Pods("d").Delete(ctx, "p", metav1.DeleteOptions{}) },
			"node storage": func() error { return as.Storage.CSINodes().Delete(ctx, "n", metav1.DeleteOptions{}) },
		} {
			if err := write(); !errors.Is(err, errFenced) {
				t.Errorf("a write of %s: %v", name, err)
			}
		}
		if _, err := c.Election.Leases("d").Create(ctx, &coordinationv1.Lease{}, metav1.CreateOptions{}); err != nil {
			t.Errorf("a write of the election: %v", err)
		}
		if _, err := as.Core.Pods("d").List(ctx, metav1.ListOptions{}); err != nil {
			t.Errorf("a read of the node: %v", err)
		}
		mu.Lock()
		if users["GET system:node:n "+group] != 1 {
			t.Errorf("%s impersonation: %v", impersonation, users)
		}
		mu.Unlock()
	}
	if users["POST  "] != 2 || len(users) != 3 {
		t.Errorf("requests that arrived: %v", users)
	}
}

func TestClientsForgetDeletedNodes(t *testing.T) {
	t.Parallel()
	c, err := NewClients(&rest.Config{Host: "127.0.0.1:1"}, ImpersonationConstrained, func(next http.RoundTripper) http.RoundTripper { return next })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	first, err := c.As("n")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := c.As("n"); err != nil || again != first {
		t.Errorf("the second client of a node is another one: %v", err)
	}
	c.Forget("n")
	if n := len(c.nodes); n != 0 {
		t.Errorf("%d clients are kept", n)
	}
}
