package nodeapi

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/petiole-io/petiole/streams"
)

// store is what clients see, in memory, computed from the desired and the local
// messages. All its methods are safe for concurrent use.
type store struct {
	mu sync.RWMutex
	// rv is the last resource version given out.
	rv      uint64
	arrived uint64
	catalog catalog
	tables  map[schema.GroupResource]*table
	// onChange is called with the lock held, for every event after loading.
	onChange func(resource, watch.EventType, *object)
}

// table is one resource.
type table struct {
	resource
	entries map[key]*entry
	history history
}

func newStore(rv uint64) *store {
	return &store{rv: rv, catalog: newCatalog(), tables: map[schema.GroupResource]*table{}}
}

// lookup finds a served resource.
func (s *store) lookup(gvr schema.GroupVersionResource) (resource, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	r, ok := s.catalog[gvr.GroupResource()]
	return r, ok && r.Version == gvr.Version
}

func (s *store) resources() []resource {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.catalog.sorted()
}

// apply takes over a desired message, if it is newer than what is known. An error is streams.ErrUndecodable and changes nothing.
func (s *store) apply(m streams.Message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.Op != streams.OpDelete {
		if err := s.catalog.admit(m); err != nil {
			return err
		}
	}
	gr := schema.GroupResource{Group: m.Group, Resource: m.Resource}
	r, known := s.catalog[gr]
	if !known {
		// The tombstone of a resource that was never seen here.
		return nil
	}
	t, k := s.table(r), key{m.Namespace, m.Name}
	e := t.entry(k)
	before, had := e.desired[m.Node]
	if had && !before.yields(m) {
		return nil
	}
	s.arrived++
	e.desired[m.Node] = desired{
		gone: m.Op == streams.OpDelete, uid: m.UID, version: m.Version, epoch: m.Epoch,
		arrived: s.arrived, body: m.Object,
	}
	if d := e.desired[m.Node]; d.gone {
		d.goneAt = time.Now().Unix()
		e.desired[m.Node] = d
	}
	if err := s.refresh(t, k, e); err != nil {
		delete(e.desired, m.Node)
		if had {
			e.desired[m.Node] = before
		}
		return fmt.Errorf("%w: %s: %w", streams.ErrUndecodable, m.Ref, err)
	}
	if d := e.desired[m.Node]; !d.gone && e.view != nil && e.view.uid == d.uid && !keepsOwnBody(gr) && e.local == nil {
		// The view holds the same content: one copy is enough.
		d.body = e.view.json
		e.desired[m.Node] = d
	}
	return nil
}

// report takes over local state, nil to forget it, and returns the view that follows
// from it, nil when there is none.
func (s *store) report(r resource, k key, l *local) (*object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.table(r)
	e := t.entry(k)
	before := e.local
	e.local = l
	if err := s.refresh(t, k, e); err != nil {
		e.local = before
		return nil, err
	}
	view := e.view
	if e.idle() {
		delete(t.entries, k)
	}
	return view, nil
}

// forget drops local state if it is still the message at seq.
func (s *store) forget(r resource, k key, seq uint64) error {
	s.mu.RLock()
	e := s.tableOf(r.GroupResource()).entries[k]
	stale := e == nil || e.local == nil || e.local.seq != seq
	s.mu.RUnlock()
	if stale {
		return nil
	}
	_, err := s.report(r, k, nil)
	return err
}

// bury forgets the tombstones that were taken over before a time, of objects of which
// nothing else is known here. It returns how many.
func (s *store) bury(before time.Time) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.tables {
		for k, e := range t.entries {
			if e.local != nil || e.view != nil {
				continue
			}
			for node, d := range e.desired {
				if d.gone && d.goneAt < before.Unix() {
					delete(e.desired, node)
					n++
				}
			}
			if e.idle() {
				delete(t.entries, k)
			}
		}
	}
	return n
}

// get returns the object that clients see, nil when there is none.
func (s *store) get(gr schema.GroupResource, k key) *object {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if e := s.tableOf(gr).entries[k]; e != nil {
		return e.view
	}
	return nil
}

// known returns what a write to an object has to build upon.
func (s *store) known(gr schema.GroupResource, k key) (view *object, want desired, live bool, l *local) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	e := s.tableOf(gr).entries[k]
	if e == nil {
		return nil, desired{}, false, nil
	}
	want, live = e.wanted()
	return e.view, want, live, e.local
}

// unanswered is entry.unanswered of one object.
func (s *store) unanswered(gr schema.GroupResource, k key) (desired, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if e := s.tableOf(gr).entries[k]; e != nil {
		return e.unanswered()
	}
	return desired{}, false
}

// list returns the matching objects in the order of their names, and the resource
// version at which that was so.
func (s *store) list(gr schema.GroupResource, sel selection) ([]*object, uint64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.tableOf(gr).list(sel), s.rv
}

// refresh computes the view of k again and tells the watchers what changed. An error
// leaves the view as it was. With the UID of a node the owner of its CSINode changes.
func (s *store) refresh(t *table, k key, e *entry) error {
	uid := e.uid()
	if err := s.recompute(t, k, e); err != nil {
		return err
	}
	if t.GroupResource() != nodesGR || e.uid() == uid {
		return nil
	}
	csi := s.tables[csiNodesGR]
	if csi == nil || csi.entries[k] == nil {
		return nil
	}
	return s.recompute(csi, k, csi.entries[k])
}

func (s *store) recompute(t *table, k key, e *entry) error {
	d, err := compose(t.GroupResource(), e)
	if err == nil && d != nil && t.GroupResource() == csiNodesGR {
		if node := s.tableOf(nodesGR).entries[k]; node != nil {
			err = ownedByNode(d, k.name, node.uid())
		}
	}
	if err != nil {
		return err
	}
	old := e.view
	if d == nil {
		if old == nil {
			return nil
		}
		return s.remove(t, e, old)
	}
	next, err := newObject(t.resource, k, d, s.rv+1)
	if err != nil {
		return err
	}
	// A node is the same node when the cloud gives its own UID to one that was
	// registered here before the cloud knew it.
	replaced := old != nil && old.uid != next.uid && t.GroupResource() != nodesGR
	switch {
	case replaced:
		if err := s.remove(t, e, old); err != nil {
			return err
		}
		if next, err = next.at(s.rv + 1); err != nil {
			return err
		}
		e.born = next.rv
		s.publish(t, watch.Added, nil, next)
	case old == nil:
		e.born = next.rv
		s.publish(t, watch.Added, nil, next)
	case old.digest == next.digest:
		return nil
	default:
		s.publish(t, watch.Modified, old, next)
	}
	e.view = next
	return nil
}

func (s *store) remove(t *table, e *entry, old *object) error {
	last, err := old.at(s.rv + 1)
	if err != nil {
		return err
	}
	e.view, e.touched = nil, ""
	s.publish(t, watch.Deleted, old, last)
	return nil
}

func (s *store) publish(t *table, kind watch.EventType, old, obj *object) {
	s.rv = obj.rv
	t.history.add(event{kind: kind, old: old, obj: obj})
	if s.onChange != nil {
		s.onChange(t.resource, kind, obj)
	}
}

// loaded ends the loading: the history starts here.
func (s *store) loaded(onChange func(resource, watch.EventType, *object)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onChange = onChange
	for _, t := range s.tables {
		t.history = history{}
		t.history.start(s.rv)
	}
}

// each calls f with every entry of a resource, under the read lock.
func (s *store) each(gr schema.GroupResource, f func(key, *entry)) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for k, e := range s.tableOf(gr).entries {
		f(k, e)
	}
}

func (s *store) table(r resource) *table {
	t := s.tables[r.GroupResource()]
	if t == nil {
		t = &table{resource: r, entries: map[key]*entry{}}
		t.history.start(s.rv)
		s.tables[r.GroupResource()] = t
	}
	return t
}

// tableOf never returns nil, so that readers need not care.
func (s *store) tableOf(gr schema.GroupResource) *table {
	if t := s.tables[gr]; t != nil {
		return t
	}
	return &table{}
}

func (t *table) entry(k key) *entry {
	e := t.entries[k]
	if e == nil {
		e = &entry{desired: map[string]desired{}}
		t.entries[k] = e
	}
	return e
}

func (t *table) list(sel selection) []*object {
	var out []*object
	for _, e := range t.entries {
		if e.view != nil && sel.matches(e.view) {
			out = append(out, e.view)
		}
	}
	slices.SortFunc(out, func(a, b *object) int {
		return cmp.Or(cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.name, b.name))
	})
	return out
}

// selection is what a list or a watch is about.
type selection struct {
	// namespace is empty for all.
	namespace string
	labels    labels.Selector
	fields    fields.Selector
}

func (s selection) matches(o *object) bool {
	return o != nil && (s.namespace == "" || s.namespace == o.namespace) &&
		s.fields.Matches(o) && s.labels.Matches(o.labels)
}
