package bridge

import (
	"encoding/json"
	"net/http"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/streams"
)

// statusError answers with an error status.
func statusError(w http.ResponseWriter, code int, reason metav1.StatusReason) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Code: int32(code), Reason: reason,
	})
}

// A site cannot exhaust the memory with names of nodes that the API server does not accept.
func TestRefusedNodesAreForgotten(t *testing.T) {
	t.Parallel()
	w := startWriting(t, func(w http.ResponseWriter, _ *http.Request) {
		statusError(w, http.StatusForbidden, metav1.StatusReasonForbidden)
	})
	t.Cleanup(w.writeback.queue.ShutDown)
	for _, name := range []string{"x1", "x2"} {
		used, err := w.clients.As(name)
		if err != nil {
			t.Fatal(err)
		}
		data, err := json.Marshal(corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}})
		if err != nil {
			t.Fatal(err)
		}
		k := reportKey{"plant-a", streams.Ref{Node: name, Resource: "nodes", Name: name}}
		if err := w.writeNode(t.Context(), k, &report{pending: true, msg: streams.Message{Ref: k.ref, Object: data}}); err == nil {
			t.Errorf("node %s is accepted", name)
		}
		if now, err := w.clients.As(name); err != nil || now == used {
			t.Errorf("the client of node %s, which does not exist, is kept: %v", name, err)
		}
	}
}
