package objects

import (
	"errors"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
)

const (
	// An interrupted watch resumes from the history. If the history does not go back far
	// enough the client lists again, which costs little on loopback.
	maxHistoryEvents = 256
	maxHistoryBytes  = 1 << 20
	// A watcher with a longer queue is ended.
	maxQueueEvents = 1000
	maxQueueBytes  = 8 << 20
)

// ErrExpired reports a resource version that is older than the history, or a watcher whose
// queue has overflowed. The client has to list again.
var ErrExpired = errors.New("resource version is too old")

// Event is a change of an object, as a watcher sees it.
type Event struct {
	Kind   watch.EventType
	Object *Object
	// old is the version before, nil for an addition.
	old *Object
}

// history holds the latest events of one resource and passes new ones to the watchers. It is
// guarded by the store's lock.
type history struct {
	events []Event
	bytes  int
	// floor is the resource version up to which events have been dropped.
	floor    uint64
	watchers map[*Watcher]struct{}
}

func (h *history) start(rv uint64) {
	h.floor = rv
	h.watchers = map[*Watcher]struct{}{}
}

func (h *history) add(ev Event) {
	h.events = append(h.events, ev)
	h.bytes += len(ev.Object.JSON)
	for len(h.events) > maxHistoryEvents || h.bytes > maxHistoryBytes && len(h.events) > 1 {
		h.bytes -= len(h.events[0].Object.JSON)
		h.floor = h.events[0].Object.ResourceVersion
		h.events[0] = Event{}
		h.events = h.events[1:]
	}
	for w := range h.watchers {
		w.offer(ev)
	}
}

func (h *history) watch(s *Store, sel Selection) *Watcher {
	w := &Watcher{store: s, history: h, sel: sel, wake: make(chan struct{}, 1)}
	h.watchers[w] = struct{}{}
	return w
}

// Watcher queues the events of one watch.
type Watcher struct {
	store      *Store
	history    *history
	sel        Selection
	wake       chan struct{}
	queue      []Event
	bytes      int
	overflowed bool
}

// Ready returns a channel that receives a value when there are events to drain.
func (w *Watcher) Ready() <-chan struct{} { return w.wake }

// Drain empties the watcher's queue. It returns the events and the resource version that is
// reached with them, or ErrExpired if the queue has overflowed.
func (w *Watcher) Drain() (events []Event, rv uint64, err error) {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	if w.overflowed {
		return nil, 0, ErrExpired
	}
	events, w.queue, w.bytes = w.queue, nil, 0
	return events, w.store.rv, nil
}

// Stop ends the watch.
func (w *Watcher) Stop() {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	delete(w.history.watchers, w)
}

// offer queues an event as the watcher sees it: an object that starts or stops matching is
// an addition or a deletion.
func (w *Watcher) offer(ev Event) {
	before, after := w.sel.matches(ev.old), w.sel.matches(ev.Object)
	switch {
	case ev.Kind == watch.Deleted && !before, ev.Kind != watch.Deleted && !before && !after:
		return
	case ev.Kind == watch.Deleted:
	case before && after:
		ev.Kind = watch.Modified
	case after:
		ev.Kind = watch.Added
	default:
		ev.Kind = watch.Deleted
	}
	if w.overflowed {
		return
	}
	w.queue = append(w.queue, ev)
	w.bytes += len(ev.Object.JSON)
	if len(w.queue) > maxQueueEvents || w.bytes > maxQueueBytes && len(w.queue) > 1 {
		w.queue, w.overflowed = nil, true
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// WatchFrom starts a watch after the resource version since. It returns ErrExpired if the
// history does not reach back to it. The caller stops the watcher.
func (s *Store) WatchFrom(gr schema.GroupResource, sel Selection, since uint64) (*Watcher, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tables.create(gr, s.rv)
	if since < t.history.floor || since > s.rv {
		return nil, ErrExpired
	}
	w := t.history.watch(s, sel)
	for _, ev := range t.history.events {
		if ev.Object.ResourceVersion > since {
			w.offer(ev)
		}
	}
	return w, nil
}

// WatchAll starts a watch now. It returns the objects that match at present and the present
// resource version. The caller stops the watcher.
func (s *Store) WatchAll(gr schema.GroupResource, sel Selection) (*Watcher, []*Object, uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tables.create(gr, s.rv)
	return t.history.watch(s, sel), t.list(sel), s.rv
}
