package nodeapi

import (
	"errors"

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

// errExpired reports a resource version that is older than the history, or a watcher whose
// queue has overflowed. The client has to list again.
var errExpired = errors.New("resource version is too old")

// event is a change of an object. old is nil for an addition.
type event struct {
	kind     watch.EventType
	old, obj *object
}

// history holds the latest events of one resource and passes new ones to the watchers. It is
// guarded by the store's lock.
type history struct {
	events []event
	bytes  int
	// floor is the resource version up to which events have been dropped.
	floor    uint64
	watchers map[*watcher]struct{}
}

func (h *history) start(rv uint64) {
	h.floor = rv
	h.watchers = map[*watcher]struct{}{}
}

func (h *history) add(ev event) {
	h.events = append(h.events, ev)
	h.bytes += len(ev.obj.json)
	for len(h.events) > maxHistoryEvents || h.bytes > maxHistoryBytes && len(h.events) > 1 {
		h.bytes -= len(h.events[0].obj.json)
		h.floor = h.events[0].obj.rv
		h.events[0] = event{}
		h.events = h.events[1:]
	}
	for w := range h.watchers {
		w.offer(ev)
	}
}

// watcher queues the events of one watch.
type watcher struct {
	sel        selection
	wake       chan struct{}
	queue      []event
	bytes      int
	overflowed bool
}

// offer queues an event as the watcher sees it: an object that starts or stops matching is
// an addition or a deletion.
func (w *watcher) offer(ev event) {
	before, after := w.sel.matches(ev.old), w.sel.matches(ev.obj)
	switch {
	case ev.kind == watch.Deleted && !before, ev.kind != watch.Deleted && !before && !after:
		return
	case ev.kind == watch.Deleted:
	case before && after:
		ev.kind = watch.Modified
	case after:
		ev.kind = watch.Added
	default:
		ev.kind = watch.Deleted
	}
	if w.overflowed {
		return
	}
	w.queue = append(w.queue, ev)
	w.bytes += len(ev.obj.json)
	if len(w.queue) > maxQueueEvents || w.bytes > maxQueueBytes && len(w.queue) > 1 {
		w.queue, w.overflowed = nil, true
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// watchFrom starts a watch after the resource version since. It returns errExpired if the
// history does not reach back to it.
func (s *store) watchFrom(r resource, sel selection, since uint64) (*watcher, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.table(r)
	if since < t.history.floor || since > s.rv {
		return nil, errExpired
	}
	w := &watcher{sel: sel, wake: make(chan struct{}, 1)}
	for _, ev := range t.history.events {
		if ev.obj.rv > since {
			w.offer(ev)
		}
	}
	t.history.watchers[w] = struct{}{}
	return w, nil
}

// watchAll starts a watch now. It returns the objects that match at present and the present
// resource version.
func (s *store) watchAll(r resource, sel selection) (*watcher, []*object, uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.table(r)
	w := &watcher{sel: sel, wake: make(chan struct{}, 1)}
	t.history.watchers[w] = struct{}{}
	return w, t.list(sel), s.rv
}

// drain empties the watcher's queue. It returns the events and the resource version that is
// reached with them.
func (s *store) drain(w *watcher) (events []event, rv uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.overflowed {
		return nil, 0, errExpired
	}
	events, w.queue, w.bytes = w.queue, nil, 0
	return events, s.rv, nil
}

func (s *store) unwatch(r resource, w *watcher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.table(r).history.watchers, w)
}
