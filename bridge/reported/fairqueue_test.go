package reported

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"k8s.io/client-go/util/workqueue"

	"github.com/petiole-io/petiole/streams"
)

// keyOf returns the key of a pod of a site.
func keyOf(site string, pod int) Key {
	return Key{site, streams.Ref{Node: "n", Resource: "pods", Namespace: "default", Name: fmt.Sprint("p", pod)}}
}

// A site with 1,000 reports that wait delays the next one of another by one turn, and keeps the
// order of its own.
func TestSitesTakeTurns(t *testing.T) {
	t.Parallel()
	const reports = 1000
	q := newFairQueue(reports + 1) // no site reaches its share
	for i := range reports {
		q.Push(keyOf("plant-b", i))
	}
	next := func(want Key) {
		t.Helper()
		if got := q.Pop(); got != want {
			t.Fatalf("next is %v, want %v", got, want)
		}
	}
	next(keyOf("plant-b", 0))
	q.Push(keyOf("plant-a", 0))
	q.Push(keyOf("plant-a", 1))
	q.Push(keyOf("plant-c", 0))
	for _, k := range []Key{
		keyOf("plant-b", 1), keyOf("plant-a", 0), keyOf("plant-c", 0), keyOf("plant-b", 2), keyOf("plant-a", 1), keyOf("plant-b", 3),
	} {
		next(k)
	}
	if n := q.Len(); n != reports-4 {
		t.Errorf("%d wait, want %d", n, reports-4)
	}
	for i := 4; i < reports; i++ {
		next(keyOf("plant-b", i))
	}
	if n := q.Len(); n != 0 {
		t.Errorf("%d wait, want none", n)
	}
}

// A site that holds its share of the workers waits until one is released; others do not. Nothing
// is kept of a site without work.
func TestSiteHasAShareOfTheWorkers(t *testing.T) {
	t.Parallel()
	q := newFairQueue(2)
	for i := range 4 {
		q.Push(keyOf("plant-b", i))
	}
	q.Pop()
	if q.Pop(); q.Len() != 0 {
		t.Errorf("%d can be taken, although the site holds its share", q.Len())
	}
	if q.Push(keyOf("plant-b", 4)); q.Len() != 0 {
		t.Errorf("%d can be taken after one more was added", q.Len())
	}
	if q.Push(keyOf("plant-a", 0)); q.Len() == 0 || q.Pop() != keyOf("plant-a", 0) {
		t.Error("another site has no turn")
	}
	for i := 2; i < 5; i++ {
		if q.release("plant-b"); q.Len() == 0 || q.Pop() != keyOf("plant-b", i) || q.Len() != 0 {
			t.Fatalf("after a release not exactly report %d can be taken", i)
		}
	}
	for range 2 {
		q.release("plant-b")
	}
	if q.release("plant-a"); len(q.sites) != 0 {
		t.Errorf("%d sites without work are remembered", len(q.sites))
	}
}

// Workers process all that is added, also while it is processed, each object by one worker at a
// time, and no site has more workers than its share.
func TestFairQueueStarvesNobody(t *testing.T) {
	t.Parallel()
	const sites, objects, versions, workers = 5, 20, 50, 8
	q := NewQueue(workqueue.TypedQueueConfig[Key]{}, workers)
	var mu sync.Mutex
	newest, processed, processing, of := map[Key]int{}, map[Key]int{}, map[Key]bool{}, map[string]int{}
	var g sync.WaitGroup
	for range workers {
		g.Go(func() {
			for k, down := q.Get(); !down; k, down = q.Get() {
				mu.Lock()
				if processing[k] {
					t.Errorf("two workers process %v", k)
				}
				processing[k] = true
				if of[k.Site]++; of[k.Site] > workers/2 {
					t.Errorf("%s has %d workers, want at most %d", k.Site, of[k.Site], workers/2)
				}
				version := newest[k]
				mu.Unlock()
				mu.Lock() // others ran meanwhile
				if version < processed[k] {
					t.Errorf("version %d of %v after %d", version, k, processed[k])
				}
				processed[k], processing[k] = version, false
				of[k.Site]--
				mu.Unlock()
				q.Done(k)
			}
		})
	}
	var adding sync.WaitGroup
	for s := range sites {
		adding.Go(func() {
			for v := range versions {
				for o := range objects {
					k := keyOf(fmt.Sprint("plant-", s), o)
					mu.Lock()
					newest[k] = v + 1
					mu.Unlock()
					q.Add(k)
				}
			}
		})
	}
	adding.Wait()
	q.ShutDown() // the workers process what is left
	g.Wait()
	for k, v := range newest {
		if processed[k] != v {
			t.Errorf("%v: version %d processed, want %d", k, processed[k], v)
		}
	}
}

// While the API server answers none of one site's writes, another's report is written.
func TestUnansweredWritesHoldUpNobody(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var users []string
	answer := make(chan struct{})
	release := sync.OnceFunc(func() { close(answer) })
	w := startFlooded(t, func(rw http.ResponseWriter, r *http.Request) {
		user := r.Header.Get("Impersonate-User")
		mu.Lock()
		users = append(users, user)
		mu.Unlock()
		if strings.Contains(user, "b1") {
			<-answer
		}
		accepts(rw, r)
	})
	const reports = 10
	for i := range reports {
		ref := streams.Ref{Node: "b1", Resource: "events", Namespace: "default", Name: fmt.Sprint("e", i)}
		w.send(put(streams.ReportedSubject("plant-b", ref), fmt.Sprintf(`{"metadata":{"name":%q}}`, ref.Name)))
	}
	w.start()
	t.Cleanup(release)
	sent := func() []string { mu.Lock(); defer mu.Unlock(); return slices.Clone(users) }
	w.await("a write of the site that is not answered", func() bool { return len(sent()) > 0 && w.waiting("plant-b") == reports })
	w.say("first")
	w.await("another site's report written", func() bool { return w.count.Accepted.Load() == 1 })
	if u := sent(); len(u) != 2 {
		t.Errorf("requests of %v, want one of each site", u)
	}
	release()
	w.await("the rest written", func() bool { return w.count.Accepted.Load() == reports+1 })
}
