package desired

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/util/workqueue"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/bridge/hub"
	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/bridge/lease"
	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/streams"
)

// publishing is a Reconciler with a real hub. The test itself changes the objects that it
// watches.
type publishing struct {
	t *testing.T
	*Reconciler
	watched *objectMap
	version int
	// store is the hub's folder.
	store string
}

// objectMap implements Objects. A test fills it.
type objectMap struct {
	mu  sync.Mutex
	all map[kube.Key]*unstructured.Unstructured
	// unlisted is a resource of which it does not know all objects.
	unlisted schema.GroupResource
	// unwatched is a resource of which it knows no object.
	unwatched schema.GroupResource
}

func (m *objectMap) Watched(k kube.Key) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return k.GroupResource() != m.unwatched
}

// unwatch makes the map forget the objects of a resource.
func (m *objectMap) unwatch(gr schema.GroupResource) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.unwatched = gr
	maps.DeleteFunc(m.all, func(k kube.Key, _ *unstructured.Unstructured) bool { return k.GroupResource() == gr })
}

func (m *objectMap) Listed(k kube.Key) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return k.GroupResource() != m.unlisted
}

func (m *objectMap) setUnlisted(gr schema.GroupResource) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.unlisted = gr
}

func (m *objectMap) Get(k kube.Key) *unstructured.Unstructured {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.all[k]
}

func (m *objectMap) Keys() []kube.Key {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Keys(m.all))
}

// set adds or replaces an object, or with nil removes it.
func (m *objectMap) set(k kube.Key, o *unstructured.Unstructured) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if o == nil {
		delete(m.all, k)
	} else {
		m.all[k] = o
	}
}

// intactStorage is a Storage that has nothing to check.
type intactStorage struct{}

func (intactStorage) Wait(context.Context) error { return nil }

func (intactStorage) AddCandidate(kube.Key, string, string) {}

func newQueue[T comparable]() workqueue.TypedRateLimitingInterface[T] {
	return workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[T](100*time.Millisecond, 2*time.Second))
}

func startPublishing(t *testing.T) *publishing {
	t.Helper()
	h := natstest.StartHub(t, "plant-a")
	opened, err := hub.Open(t.Context(), h.Connect(t, "bridge"), streams.HubLimits{})
	if err != nil {
		t.Fatal(err)
	}
	f := lease.NewFence(time.Now)
	f.Renewed(time.Now(), time.Hour)
	f.SetTerm(1)
	objects := &objectMap{all: map[kube.Key]*unstructured.Unstructured{}}
	p := &publishing{t: t, store: h.Server.StoreDir(), watched: objects, Reconciler: New(Config{
		Hub: opened, Objects: objects, Storage: intactStorage{}, Fence: f, Epoch: "1-e", Counters: new(Counters), Log: zap.NewNop(),
		Changed: newQueue[kube.Key](), Sites: newQueue[string](), Report: func(err error) {
			if err != nil {
				t.Errorf("search the desired stream: %v", err)
			}
		},
	})}
	p.Load(&Stored{cache: newCache()})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := p.Run(ctx, 4); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return p
}

// set adds or replaces a watched object, as a watch event does.
func (p *publishing) set(k kube.Key, object map[string]any) {
	p.t.Helper()
	p.version++
	meta, _ := object["metadata"].(map[string]any)
	if meta == nil {
		meta = map[string]any{}
		object["metadata"] = meta
	}
	meta["name"], meta["uid"], meta["resourceVersion"] = k.Name, "uid-"+k.Name, strconv.Itoa(p.version)
	if k.Namespace != "" {
		meta["namespace"] = k.Namespace
	}
	p.watched.set(k, &unstructured.Unstructured{Object: object})
	p.Changed(k, 0)
}

// await waits for a condition.
func (p *publishing) await(what string, cond func() bool) {
	p.t.Helper()
	for start := time.Now(); !cond(); time.Sleep(10 * time.Millisecond) {
		if time.Since(start) > time.Minute {
			p.t.Fatalf("%s: not within a minute", what)
		}
	}
}

func (p *publishing) idle() bool { return p.changed.Len() == 0 && p.SiteIdle("plant-a") }

// populate creates a site whose pod needs n ConfigMaps.
func (p *publishing) populate(n int) []kube.Key {
	p.t.Helper()
	p.set(kube.Key{Group: kube.SiteGroup, Resource: "sites", Name: "plant-a"}, map[string]any{})
	p.set(kube.CoreKey("nodes", "", "a1"), map[string]any{"metadata": map[string]any{"labels": map[string]any{v1alpha1.SiteLabel: "plant-a"}}})
	var keys []kube.Key
	var sources []any
	for i := range n {
		k := kube.CoreKey("configmaps", "default", fmt.Sprint("settings-", i))
		keys = append(keys, k)
		sources = append(sources, map[string]any{"configMap": map[string]any{"name": k.Name}})
		p.write(k, 0)
	}
	p.set(kube.CoreKey("pods", "default", "web"), map[string]any{"spec": map[string]any{
		"nodeName": "a1", "volumes": []any{map[string]any{"name": "v", "projected": map[string]any{"sources": sources}}},
	}})
	// Including the node and the pod.
	p.await("everything published", func() bool { return p.idle() && p.counters.Published.Load() >= uint64(n)+2 })
	return keys
}

func (p *publishing) write(k kube.Key, value int) {
	p.t.Helper()
	p.set(k, map[string]any{"data": map[string]any{"v": strings.Repeat(strconv.Itoa(value)+" ", 40)}})
}

// A delayed message of a former leader, and one of a leader without a lease: neither replaces
// what the next leader wrote.
func TestLateMessagesAreRefused(t *testing.T) {
	t.Parallel()
	p := startPublishing(t)
	k := p.populate(1)[0]
	subject := streams.DesiredSubject("plant-a", k.Ref(""))
	last := func() (streams.Message, uint64) {
		t.Helper()
		raw, err := p.hub.Desired.GetLastMsgForSubject(t.Context(), subject)
		if err != nil {
			t.Fatal(err)
		}
		_, m, err := streams.Decode(raw.Subject, raw.Header, raw.Data)
		if err != nil {
			t.Fatal(err)
		}
		return m, raw.Sequence
	}
	mine, seq := last()
	next := mine
	next.Term, next.Hash = mine.Term+1, "next"
	if _, err := streams.Put(t.Context(), p.hub.JS, subject, next); err != nil {
		t.Fatal(err)
	}
	if _, err := p.put(t.Context(), "plant-a", k, subject, mine, seq); !errors.Is(err, lease.ErrDeposed) {
		t.Errorf("a late message: %v, want %v", err, lease.ErrDeposed)
	}
	if m, _ := last(); m.Hash != "next" {
		t.Errorf("the stream holds %+v", m)
	}

	q := startPublishing(t)
	k = q.populate(1)[0]
	before := q.counters.Published.Load()
	q.fence.Renewed(time.Now().Add(-time.Hour), time.Minute)
	q.write(k, 2)
	q.await("a try", func() bool { return q.changed.Len() == 0 && q.queue.NumRequeues("plant-a") > 0 })
	if n := q.counters.Published.Load(); n != before {
		t.Errorf("%d messages were published without a lease", n-before)
	}
	q.fence.Renewed(time.Now(), time.Hour)
	q.await("published with the lease", func() bool { return q.counters.Published.Load() == before+1 })
}

// A hub whose store was rolled back has less than this bridge has seen.
func TestHubPutBack(t *testing.T) {
	t.Parallel()
	p := startPublishing(t)
	p.populate(3)
	f := &externalWrites{reconciler: p.Reconciler}
	if err := f.poll(t.Context()); err != nil || f.lastSeq == 0 {
		t.Fatalf("search: %v, up to %d", err, f.lastSeq)
	}
	f.lastSeq++
	if err := f.poll(t.Context()); !errors.Is(err, hub.ErrReplaced) {
		t.Errorf("search: %v, want %v", err, hub.ErrReplaced)
	}
}

// A killed hub can restore a message that had been superseded and removed. The site has passed
// its sequence: it is not enough that the subject holds the right content.
func TestRemovedMessageThatIsBackIsPublishedAgain(t *testing.T) {
	t.Parallel()
	p := startPublishing(t)
	k := p.populate(3)[0]
	subject := streams.DesiredSubject("plant-a", k.Ref(""))
	before, err := p.hub.Desired.GetLastMsgForSubject(t.Context(), subject)
	if err != nil {
		t.Fatal(err)
	}
	p.mu.Lock()
	p.desired.remove("plant-a", k, subject) // as after an expired tombstone
	p.mu.Unlock()
	p.write(k, 0)
	p.await("published again", func() bool {
		now, err := p.hub.Desired.GetLastMsgForSubject(t.Context(), subject)
		if err != nil {
			t.Fatal(err)
		}
		return now.Sequence > before.Sequence
	})
	p.await("settled", p.idle)
}

// What a Site selects stays at the site while the bridge does not know all objects of the resource,
// as after a start while it may not read it; then what is gone goes.
func TestSelectedObjectsStayUntilTheyAreListed(t *testing.T) {
	t.Parallel()
	p := startPublishing(t)
	p.populate(0)
	widgets := schema.GroupResource{Group: "example.com", Resource: "widgets"}
	site, k := kube.SiteKey("plant-a"), kube.Key{Group: "example.com", Resource: "widgets", Namespace: "default", Name: "w"}
	selection := map[string]any{"spec": map[string]any{"resources": []any{map[string]any{"group": "example.com", "resource": "widgets"}}}}
	p.set(site, selection)
	p.set(k, map[string]any{"spec": map[string]any{"size": int64(1)}})
	has := func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, e := range p.desired.entries("plant-a", k) {
			return e.op == streams.OpPut
		}
		return false
	}
	p.await("the object is published", func() bool { return p.idle() && has() })
	p.watched.setUnlisted(widgets)
	p.watched.set(k, nil)
	p.Changed(k, 0)
	p.await("the change is dealt with", p.idle)
	if !has() {
		t.Fatal("the object was removed while nobody knew whether it is gone")
	}
	p.watched.setUnlisted(schema.GroupResource{})
	p.Listed(widgets)
	p.await("the object is removed", func() bool { return p.idle() && !has() })
	p.set(k, map[string]any{"spec": map[string]any{"size": int64(2)}})
	p.await("it is published again", func() bool { return p.idle() && has() })
	p.watched.setUnlisted(widgets)
	p.set(site, map[string]any{})
	p.await("it goes with the selection, listed or not", func() bool { return p.idle() && !has() })
}

// A site gets the endpoints of its own nodes. Those of another cost it no message, and a node that
// comes to it brings its endpoints.
func TestEndpointsOfASite(t *testing.T) {
	t.Parallel()
	p := startPublishing(t)
	p.populate(0)
	k := kube.Key{Group: kube.DiscoveryGroup, Resource: "endpointslices", Namespace: "default", Name: "web-1"}
	slice := func(addresses ...string) map[string]any {
		o := map[string]any{"endpoints": []any{}}
		for i, a := range addresses {
			e := map[string]any{"addresses": []any{a}, "nodeName": []string{"a1", "b1", "a2"}[i]}
			o["endpoints"] = append(o["endpoints"].([]any), e)
		}
		return o
	}
	has := func(want ...string) func() bool {
		return func() bool {
			raw, err := p.hub.Desired.GetLastMsgForSubject(t.Context(), streams.DesiredSubject("plant-a", k.Ref("")))
			if err != nil {
				return false
			}
			_, m, err := streams.Decode(raw.Subject, raw.Header, raw.Data)
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Count(string(m.Object), `"addresses"`)
			for _, w := range want {
				if !strings.Contains(string(m.Object), w) {
					return false
				}
			}
			return got == len(want) && p.idle()
		}
	}
	p.set(k, slice("10.0.0.1", "10.0.0.2", "10.0.0.3"))
	p.await("the endpoint of the site's node", has("10.0.0.1"))
	before := p.counters.Published.Load()
	p.set(k, slice("10.0.0.1", "10.0.0.9", "10.0.0.3"))
	p.await("another site's endpoint has changed", p.idle)
	if n := p.counters.Published.Load() - before; n != 0 {
		t.Errorf("%d messages because of another site's endpoint", n)
	}
	p.set(kube.CoreKey("nodes", "", "a2"), map[string]any{"metadata": map[string]any{"labels": map[string]any{v1alpha1.SiteLabel: "plant-a"}}})
	p.await("the endpoint of a new node", has("10.0.0.1", "10.0.0.3"))
}
