package nodeapi

import (
	"errors"

	"k8s.io/apimachinery/pkg/watch"
)

const (
	// A watch that was cut resumes from the history; beyond it the client lists again,
	// which costs little on loopback.
	historyEvents = 256
	historyBytes  = 1 << 20
	// A watcher that lags further behind is ended.
	queueEvents = 1000
	queueBytes  = 8 << 20
)

// errExpired reports a resource version that the history does not reach, or a
// watcher that lags behind it. The client has to list again.
var errExpired = errors.New("resource version is too old")

// event is one change. old is nil for an addition.
type event struct {
	kind     watch.EventType
	old, obj *object
}

// history holds the latest events of one resource and hands new ones to its watchers.
// The store's lock guards it.
type history struct {
	events []event
	bytes  int
	// floor is the resource version up to which events were dropped.
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
	for len(h.events) > historyEvents || h.bytes > historyBytes && len(h.events) > 1 {
		h.bytes -= len(h.events[0].obj.json)
		h.floor = h.events[0].obj.rv
		h.events[0] = event{}
		h.events = h.events[1:]
	}
	for w := range h.watchers {
		w.offer(ev)
	}
}

// watcher collects the events of one watch. It holds references, not copies.
type watcher struct {
	sel   selection
	wake  chan struct{}
	queue []event
	bytes int
	lost  bool
}

// offer appends the event as the watcher sees it: an object that begins or ceases to
// match is added or deleted for it.
func (w *watcher) offer(ev event) {
	was, is := w.sel.matches(ev.old), w.sel.matches(ev.obj)
	switch {
	case ev.kind == watch.Deleted && !was, ev.kind != watch.Deleted && !was && !is:
		return
	case ev.kind == watch.Deleted:
	case was && is:
		ev.kind = watch.Modified
	case is:
		ev.kind = watch.Added
	default:
		ev.kind = watch.Deleted
	}
	if w.lost {
		return
	}
	w.queue = append(w.queue, ev)
	w.bytes += len(ev.obj.json)
	if len(w.queue) > queueEvents || w.bytes > queueBytes && len(w.queue) > 1 {
		w.queue, w.lost = nil, true
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// watchFrom starts a watch after the resource version since, which must be of this
// store's history, or else is errExpired.
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

// watchAll starts a watch now, and returns the objects that match at that moment with
// its resource version.
func (s *store) watchAll(r resource, sel selection) (*watcher, []*object, uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.table(r)
	w := &watcher{sel: sel, wake: make(chan struct{}, 1)}
	t.history.watchers[w] = struct{}{}
	return w, t.list(sel), s.rv
}

// take empties the watcher's queue, and returns the resource version that is reached
// with it.
func (s *store) take(w *watcher) (events []event, rv uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.lost {
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
