package writeback

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/bridge/bounds"
	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/bridge/lease"
	"github.com/petiole-io/petiole/bridge/liveness"
	"github.com/petiole-io/petiole/streams"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// empty is an API server with a Site and nothing else.
type empty struct{}

func (empty) Get(kube.Key) *unstructured.Unstructured { return nil }

func (empty) SiteExists(string) bool { return true }

func (empty) NodesOf(string) []string     { return nil }
func (empty) BoundTo([]string) []kube.Key { return nil }

func (empty) SiteOf(string) string { return "" }

func (empty) Claim(context.Context, string, string, []string) error { return nil }

func (empty) Spec(string) *v1alpha1.SiteNodes { return nil }

// A site cannot exhaust the memory with names of nodes that the API server does not accept.
func TestRefusedNodesAreForgotten(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		_ = json.NewEncoder(w).Encode(metav1.Status{ // the client may have gone away
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Code: http.StatusForbidden, Reason: metav1.StatusReasonForbidden,
		})
	}))
	t.Cleanup(server.Close)
	fence := lease.NewFence(time.Now)
	fence.Renewed(time.Now(), time.Hour)
	clients, err := kube.NewClients(&rest.Config{Host: server.URL, QPS: -1}, kube.ImpersonationConstrained, fence.Transport)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(clients.Close)
	w := New(Config{Clients: clients, Cache: empty{}, Sites: empty{}, Names: empty{}, Problems: bounds.NewProblems(time.Now), Liveness: liveness.NewTracker(), Deleted: NewDeletedNodes(), Log: zap.NewNop()})
	for _, name := range []string{"x1", "x2"} {
		used, err := clients.As(name)
		if err != nil {
			t.Fatal(err)
		}
		data, err := json.Marshal(corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}})
		if err != nil {
			t.Fatal(err)
		}
		ref := streams.Ref{Node: name, Resource: "nodes", Name: name}
		if err := w.Write(t.Context(), Report{Site: "plant-a", New: true, Message: streams.Message{Ref: ref, Object: data}}); !errors.Is(err, kube.ErrForbidden) {
			t.Errorf("node %s: %v", name, err)
		}
		if now, err := clients.As(name); err != nil || now == used {
			t.Errorf("the client of node %s, which does not exist, is kept: %v", name, err)
		}
	}
}
