package bridge

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/streams"
)

// publishing is a publisher with a real hub. The test itself changes the objects in the
// informers' stores.
type publishing struct {
	t *testing.T
	*publisher
	version int
}

func startPublishing(t *testing.T) *publishing {
	t.Helper()
	h := natstest.StartHub(t, "plant-a")
	hub, err := openHub(t.Context(), h.Connect(t, "bridge"), streams.HubLimits{})
	if err != nil {
		t.Fatal(err)
	}
	nowhere, err := dynamic.NewForConfig(&rest.Config{Host: "127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	w, err := newWatch(nowhere, newOutage(zap.NewNop(), "watch"), func(objectKey) {}, func(objectKey, *unstructured.Unstructured) {})
	if err != nil {
		t.Fatal(err)
	}
	f := newFence(time.Now)
	f.reset()
	f.renewed(time.Now(), time.Hour)
	f.setTerm(1)
	var count counters
	p := &publishing{t: t, publisher: newPublisher(w, f, &count, newInstruments(&count), zap.NewNop())}
	p.load(hub, "1-e", newDesiredCache())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { p.run(ctx, 4); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	return p
}

// set puts an object into the informer's store, as a watch event does.
func (p *publishing) set(k objectKey, object map[string]any) {
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
	inf := p.watch.informers[schema.GroupResource{Group: k.Group, Resource: k.Resource}]
	if err := inf.GetStore().Add(&unstructured.Unstructured{Object: object}); err != nil {
		p.t.Fatal(err)
	}
	p.enqueue(k)
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

func (p *publishing) idle() bool { return p.objects.Len() == 0 && p.siteIdle("plant-a") }

// populate creates a site whose pod needs n ConfigMaps.
func (p *publishing) populate(n int) []objectKey {
	p.t.Helper()
	p.set(objectKey{Group: siteGroup, Resource: "sites", Name: "plant-a"}, map[string]any{})
	p.set(coreKey("nodes", "", "a1"), map[string]any{"metadata": map[string]any{"labels": map[string]any{v1alpha1.SiteLabel: "plant-a"}}})
	var keys []objectKey
	var sources []any
	for i := range n {
		k := coreKey("configmaps", "default", fmt.Sprint("settings-", i))
		keys = append(keys, k)
		sources = append(sources, map[string]any{"configMap": map[string]any{"name": k.Name}})
		p.write(k, 0)
	}
	p.set(coreKey("pods", "default", "web"), map[string]any{"spec": map[string]any{
		"nodeName": "a1", "volumes": []any{map[string]any{"name": "v", "projected": map[string]any{"sources": sources}}},
	}})
	// Including the node and the pod.
	p.await("everything published", func() bool { return p.idle() && p.count.published.Load() >= uint64(n)+2 })
	return keys
}

func (p *publishing) write(k objectKey, value int) {
	p.t.Helper()
	p.set(k, map[string]any{"data": map[string]any{"v": strings.Repeat(strconv.Itoa(value)+" ", 40)}})
}

// A delayed message of a former leader, and one of a leader without a lease: neither replaces
// what the next leader wrote.
func TestLateMessagesAreRefused(t *testing.T) {
	t.Parallel()
	p := startPublishing(t)
	k := p.populate(1)[0]
	subject := streams.DesiredSubject("plant-a", k.ref(""))
	last := func() (streams.Message, uint64) {
		t.Helper()
		raw, err := p.hub.desired.GetLastMsgForSubject(t.Context(), subject)
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
	if _, err := streams.Put(t.Context(), p.hub.js, subject, next); err != nil {
		t.Fatal(err)
	}
	if _, err := p.put(t.Context(), "plant-a", k, subject, mine, seq); !errors.Is(err, errDeposed) {
		t.Errorf("a late message: %v, want %v", err, errDeposed)
	}
	if m, _ := last(); m.Hash != "next" {
		t.Errorf("the stream holds %+v", m)
	}

	q := startPublishing(t)
	k = q.populate(1)[0]
	before := q.count.published.Load()
	q.fence.renewed(time.Now().Add(-time.Hour), time.Minute)
	q.write(k, 2)
	q.await("a try", func() bool { return q.objects.Len() == 0 && q.queue.NumRequeues("plant-a") > 0 })
	if n := q.count.published.Load(); n != before {
		t.Errorf("%d messages were published without a lease", n-before)
	}
	q.fence.renewed(time.Now(), time.Hour)
	q.await("published with the lease", func() bool { return q.count.published.Load() == before+1 })
}

// A hub whose store was rolled back has less than this bridge has seen.
func TestHubPutBack(t *testing.T) {
	t.Parallel()
	p := startPublishing(t)
	p.populate(3)
	f := &externalWrites{hub: p.hub, publish: p.publisher, fence: p.fence, log: zap.NewNop(), count: p.count}
	if err := f.poll(t.Context()); err != nil || f.lastSeq == 0 {
		t.Fatalf("search: %v, up to %d", err, f.lastSeq)
	}
	f.lastSeq++
	if err := f.poll(t.Context()); !errors.Is(err, errHubReplaced) {
		t.Errorf("search: %v, want %v", err, errHubReplaced)
	}
}

// A killed hub can restore a message that had been superseded and removed. The site has passed
// its sequence: it is not enough that the subject holds the right content.
func TestRemovedMessageThatIsBackIsPublishedAgain(t *testing.T) {
	t.Parallel()
	p := startPublishing(t)
	k := p.populate(3)[0]
	subject := streams.DesiredSubject("plant-a", k.ref(""))
	before, err := p.hub.desired.GetLastMsgForSubject(t.Context(), subject)
	if err != nil {
		t.Fatal(err)
	}
	p.mu.Lock()
	p.desired.remove("plant-a", k, subject) // as after an expired tombstone
	p.mu.Unlock()
	p.write(k, 0)
	p.await("published again", func() bool {
		now, err := p.hub.desired.GetLastMsgForSubject(t.Context(), subject)
		if err != nil {
			t.Fatal(err)
		}
		return now.Sequence > before.Sequence
	})
	p.await("settled", p.idle)
}
