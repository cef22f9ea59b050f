package bridge

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"

	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/bridge/lease"
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
	c, err := kube.NewClients(&rest.Config{Host: server.URL, ContentConfig: rest.ContentConfig{ContentType: "application/json"}}, ImpersonationConstrained, leadingFence().Transport)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	core, logged := observer.New(zapcore.WarnLevel)
	e := newSiteEvents(c.Own, "test", zap.New(core))
	for _, site := range []string{"quota", "invalid", "a", "busy", "b"} {
		o := &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"name": site, "uid": site}}}
		e.add(o, time.Now(), []siteEvent{warning(EventDegraded, "disk")})
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

// The lifetime of a Backlog is measured by the bridge's clock, whatever the API server's is.
func TestBacklogsCountTheirTimeThemselves(t *testing.T) {
	t.Parallel()
	b := &backlogs{requests: map[string]backlogRequest{}}
	o := &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"name": "q", "uid": "1"}}}
	o.SetCreationTimestamp(metav1.NewTime(noon.Add(-time.Hour)))
	if left := b.remaining(o, noon); left != backlogLife {
		t.Errorf("a new question stays for %v", left)
	}
	if left := b.remaining(o, noon.Add(backlogLife)); left != 0 {
		t.Errorf("an old question stays for %v", left)
	}
	o.SetUID("2")
	if left := b.remaining(o, noon.Add(backlogLife)); left != backlogLife {
		t.Errorf("another question of the same name stays for %v", left)
	}
}

// Receiving no message does not mean that there is no backlog.
func TestHubThatSendsNothing(t *testing.T) {
	t.Parallel()
	p := startPublishing(t)
	p.populate(1)
	for filter, want := range map[string]error{streams.DesiredFilter("plant-a"): errHubSentNothing, streams.DesiredFilter("plant-b"): nil} {
		c, err := p.hub.JS.CreateConsumer(t.Context(), streams.Desired, jetstream.ConsumerConfig{FilterSubject: filter, AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := confirmEmpty(t.Context(), c); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", filter, err, want)
		}
	}
}
