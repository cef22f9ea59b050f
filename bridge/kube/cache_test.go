package kube

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/petiole-io/petiole/internal/polltest"
)

const configMap = `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"c","namespace":"d","resourceVersion":"4","managedFields":[{"manager":"m"}]}}`

// watchServer answers each watch with its initial objects: one ConfigMap, which it deletes
// when deletion is closed.
func watchServer(t *testing.T, deletion <-chan struct{}) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Query().Get("watch") != "true" {
			_, _ = fmt.Fprintf(w, `{"kind":"List","apiVersion":"v1","metadata":{"resourceVersion":"5"},"items":[]}`)
			return
		}
		send := func(event, object string) {
			_, _ = fmt.Fprintf(w, `{"type":%q,"object":%s}`+"\n", event, object)
			w.(http.Flusher).Flush()
		}
		has := strings.HasSuffix(r.URL.Path, "/configmaps")
		if has {
			send("ADDED", configMap)
		}
		send("BOOKMARK", `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"resourceVersion":"5","annotations":{"k8s.io/initial-events-end":"true"}}}`)
		if has {
			select {
			case <-deletion:
				send("DELETED", configMap)
			case <-r.Context().Done():
			}
		}
		<-r.Context().Done()
	}))
	t.Cleanup(s.Close)
	return s
}

// oldServer is an API server that does not serve the optional resources while old is set.
func oldServer(t *testing.T, old *atomic.Bool) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if parts := strings.Split(r.URL.Path, "/"); old.Load() && (parts[2] == ResourceGroup || parts[2] == CertificatesGroup) {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Query().Get("watch") != "true" {
			_, _ = fmt.Fprintf(w, `{"kind":"List","apiVersion":"v1","metadata":{"resourceVersion":"5"},"items":[]}`)
			return
		}
		_, _ = fmt.Fprintln(w, `{"type":"BOOKMARK","object":{"kind":"ConfigMap","apiVersion":"v1","metadata":{"resourceVersion":"5","annotations":{"k8s.io/initial-events-end":"true"}}}}`)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	t.Cleanup(s.Close)
	return s
}

// An API server that lacks a resource which only newer ones have is no outage, until it has been
// served once.
func TestCacheOfAnOlderAPIServer(t *testing.T) {
	t.Parallel()
	var old atomic.Bool
	old.Store(true)
	client, err := dynamic.NewForConfig(&rest.Config{Host: oldServer(t, &old).URL, QPS: -1})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	reported := map[string][]error{}
	c, err := NewCache(client, Handlers{Changed: func(Key) {}, Deleted: func(Key, *unstructured.Unstructured) {}, Requests: Requests{
		Answered: func() {},
		Report: func(resource string, err error) {
			mu.Lock()
			defer mu.Unlock()
			reported[resource] = append(reported[resource], err)
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	synced, done := make(chan struct{}), make(chan struct{})
	go func() { c.Run(ctx, func() { close(synced) }); close(done) }()
	defer func() { cancel(); <-done }()
	select {
	case <-synced:
	case <-time.After(polltest.Limit):
		t.Fatal("not synced without the optional resources")
	}
	mu.Lock()
	for resource, errs := range reported {
		for _, err := range errs {
			if err != nil {
				t.Errorf("%s is reported as an outage: %v", resource, err)
			}
		}
	}
	mu.Unlock()
}

func TestAbsentResourceThatWasServedIsAnOutage(t *testing.T) {
	t.Parallel()
	var old atomic.Bool
	client, err := dynamic.NewForConfig(&rest.Config{Host: oldServer(t, &old).URL, QPS: -1})
	if err != nil {
		t.Fatal(err)
	}
	r := schema.GroupVersionResource{Group: ResourceGroup, Version: "v1", Resource: "resourceclaims"}
	lw := listWatch(client, r, Requests{Answered: func() {}, Report: func(string, error) {}})
	list := func(want bool) {
		t.Helper()
		if _, err := lw.List(metav1.ListOptions{}); (err == nil) != want { //nolint:staticcheck // the interface has it
			t.Errorf("the list returned %v", err)
		}
	}
	old.Store(true)
	list(true)
	old.Store(false)
	list(true)
	old.Store(true)
	list(false)
}

func TestCacheFollowsTheAPIServer(t *testing.T) {
	t.Parallel()
	deletion := make(chan struct{})
	client, err := dynamic.NewForConfig(&rest.Config{Host: watchServer(t, deletion).URL, QPS: -1})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var events []string
	answered, reported := 0, map[string]error{}
	note := func(event string) {
		mu.Lock()
		defer mu.Unlock()
		events = append(events, event)
	}
	key := CoreKey("configmaps", "d", "c")
	c, err := NewCache(client, Handlers{
		Changed: func(k Key) { note("changed " + k.Ref("").String()) },
		Deleted: func(k Key, o *unstructured.Unstructured) { note("deleted " + o.GetName()) },
		Requests: Requests{
			Answered: func() { mu.Lock(); defer mu.Unlock(); answered++ },
			Report:   func(resource string, err error) { mu.Lock(); defer mu.Unlock(); reported[resource] = err },
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	synced, done := make(chan struct{}), make(chan struct{})
	go func() { c.Run(ctx, func() { close(synced) }); close(done) }()
	defer func() { cancel(); <-done }()
	select {
	case <-synced:
	case <-time.After(polltest.Limit):
		t.Fatal("not synced")
	}
	o := c.Get(key)
	if o == nil || o.GetManagedFields() != nil || !slices.Equal(c.Keys(), []Key{key}) {
		t.Fatalf("the cache has %v, keys %v", o, c.Keys())
	}
	if c.Get(CoreKey("configmaps", "", "c")) != nil || c.Get(CoreKey("leases", "d", "c")) != nil {
		t.Error("the cache has objects that do not exist")
	}
	if !c.Watched(key) || c.Watched(CoreKey("leases", "d", "c")) {
		t.Error("ConfigMaps are watched, and Leases are not")
	}
	mu.Lock()
	if answered < len(watched) || len(reported) != len(watched) || reported["configmaps"] != nil {
		t.Errorf("%d requests answered, reported %v", answered, reported)
	}
	mu.Unlock()

	close(deletion)
	want := []string{"changed configmaps d/c", "deleted c", "changed configmaps d/c"}
	polltest.Eventually(t, "changed, deleted, changed", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return slices.Equal(events, want)
	})
	if c.Get(key) != nil {
		t.Error("a deleted object is in the cache")
	}
}
