package site

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"

	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/bridge/lease"
)

// statusError answers with an error status.
func statusError(w http.ResponseWriter, code int, reason metav1.StatusReason) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Code: int32(code), Reason: reason,
	})
}

// leadingFence returns the fence of a leading bridge.
func leadingFence() *lease.Fence {
	f := lease.NewFence(time.Now)
	f.Renewed(time.Now(), time.Hour)
	f.SetTerm(1)
	return f
}

// An Event that the API server rejects for good does not hold back those of other sites; a
// temporary failure does.
func TestRefusedEventsAreDropped(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var taken []string
	answers := map[string]int{"quota": http.StatusForbidden, "invalid": http.StatusUnprocessableEntity, "busy": http.StatusTooManyRequests}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var ev corev1.Event
		if err := json.NewDecoder(r.Body).Decode(&ev); err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		if code := answers[ev.InvolvedObject.Name]; code != 0 {
			statusError(w, code, "")
			return
		}
		taken = append(taken, ev.InvolvedObject.Name)
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(ev)
	}))
	t.Cleanup(server.Close)
	c, err := kube.NewClients(&rest.Config{Host: server.URL, ContentConfig: rest.ContentConfig{ContentType: "application/json"}}, kube.ImpersonationConstrained, leadingFence().Transport)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	core, logged := observer.New(zapcore.WarnLevel)
	e := newEventWriter(c.Own, "test", zap.New(core))
	for _, site := range []string{"quota", "invalid", "a", "busy", "b"} {
		o := &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"name": site, "uid": site}}}
		e.add(o, time.Now(), []event{warning(EventDegraded, "disk")})
	}
	if err := e.flush(t.Context()); err == nil || !strings.Contains(err.Error(), "busy") {
		t.Errorf("flush: %v", err)
	}
	if !slices.Equal(taken, []string{"a"}) || len(e.waiting) != 2 || logged.Len() != 1 {
		t.Errorf("taken %v, %d wait, %d lines logged", taken, len(e.waiting), logged.Len())
	}
	mu.Lock()
	delete(answers, "busy")
	mu.Unlock()
	if err := e.flush(t.Context()); err != nil || !slices.Equal(taken, []string{"a", "busy", "b"}) {
		t.Errorf("taken %v: %v", taken, err)
	}
}
