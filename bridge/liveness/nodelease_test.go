package liveness

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/petiole-io/petiole/bridge/kube"
)

// Node leases are renewed even while all other requests wait for the rate limit.
func TestLeasesHaveTheirOwnBucket(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"kind":"Lease","apiVersion":"coordination.k8s.io/v1","metadata":{"name":"n","resourceVersion":"2"}}`))
	}))
	t.Cleanup(server.Close)
	rc := &rest.Config{Host: server.URL, QPS: 200, Burst: 400, RateLimiter: exhausted{}}
	c, err := kube.NewClients(rc, kube.ImpersonationConstrained, func(next http.RoundTripper) http.RoundTripper { return next })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if _, err := c.Own.CoreV1().Nodes().Get(t.Context(), "n", metav1.GetOptions{}); err == nil {
		t.Fatal("the bucket of the others is not empty")
	}
	if v, err := NewNodeLeases(c.Leases, nil).patch(t.Context(), "n", "1"); err != nil || v != "2" {
		t.Errorf("renewal: version %q, %v", v, err)
	}
}

// exhausted is a rate limiter that never admits a request.
type exhausted struct{ flowcontrol.RateLimiter }

// Wait implements flowcontrol.RateLimiter.
func (exhausted) Wait(context.Context) error { return errors.New("nothing in the bucket") }

// TryAccept implements flowcontrol.RateLimiter.
func (exhausted) TryAccept() bool { return false }
