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

// store holds the objects that clients see. It computes them from the desired and the local
// state and keeps them in memory. It is safe for concurrent use.
type store struct {
	mu sync.RWMutex
	// rv is the last resource version that was assigned.
	rv       uint64
	arrivals uint64
	catalog  catalog
	tables   map[schema.GroupResource]*table
	// onChange is called for every event after startHistory, with the lock held.
	onChange func(resource, watch.EventType, *object)
}

// table holds the objects of one resource.
type table struct {
	resource
	entries map[key]*entry
	history history
}

func newStore(rv uint64) *store {
	return &store{rv: rv, catalog: newCatalog(), tables: map[schema.GroupResource]*table{}}
}

// lookup returns a served resource.
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

// apply applies a desired message if it is newer than the present one. Every error is
// streams.ErrUndecodable and leaves the store unchanged.
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
		// The tombstone of a resource that never had an object here.
		return nil
	}
	t, k := s.table(r), key{m.Namespace, m.Name}
	e := t.entry(k)
	before, had := e.desired[m.Node]
	if had && !before.supersededBy(m) {
		return nil
	}
	s.arrivals++
	e.desired[m.Node] = desired{
		deleted: m.Op == streams.OpDelete, uid: m.UID, version: m.Version, epoch: m.Epoch,
		arrival: s.arrivals, body: m.Object,
	}
	if d := e.desired[m.Node]; d.deleted {
		d.deletedAt = time.Now().Unix()
		e.desired[m.Node] = d
	}
	if err := s.recompute(t, k, e); err != nil {
		delete(e.desired, m.Node)
		if had {
			e.desired[m.Node] = before
		}
		return fmt.Errorf("%w: %s: %w", streams.ErrUndecodable, m.Ref, err)
	}
	if d := e.desired[m.Node]; !d.deleted && e.effective != nil && e.effective.uid == d.uid && !isMerged(gr) && e.local == nil {
		// The effective object has the same content: one copy is enough.
		d.body = e.effective.json
		e.desired[m.Node] = d
	}
	return nil
}

// setLocal replaces the local state of an object, nil to remove it. It returns the effective
// object, nil if there is none.
func (s *store) setLocal(r resource, k key, l *local) (*object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.table(r)
	e := t.entry(k)
	before := e.local
	e.local = l
	if err := s.recompute(t, k, e); err != nil {
		e.local = before
		return nil, err
	}
	effective := e.effective
	if e.unused() {
		delete(t.entries, k)
	}
	return effective, nil
}

// removeLocal removes the local state of an object if it is still the message at seq.
func (s *store) removeLocal(r resource, k key, seq uint64) error {
	s.mu.RLock()
	e := s.tableOf(r.GroupResource()).entries[k]
	stale := e == nil || e.local == nil || e.local.seq != seq
	s.mu.RUnlock()
	if stale {
		return nil
	}
	_, err := s.setLocal(r, k, nil)
	return err
}

// expireTombstones removes the tombstones that were applied before a time and whose objects
// have no other state. It returns their number.
func (s *store) expireTombstones(before time.Time) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.tables {
		for k, e := range t.entries {
			if e.local != nil || e.effective != nil {
				continue
			}
			for node, d := range e.desired {
				if d.deleted && d.deletedAt < before.Unix() {
					delete(e.desired, node)
					n++
				}
			}
			if e.unused() {
				delete(t.entries, k)
			}
		}
	}
	return n
}

// get returns the effective object, nil if there is none.
func (s *store) get(gr schema.GroupResource, k key) *object {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if e := s.tableOf(gr).entries[k]; e != nil {
		return e.effective
	}
	return nil
}

// state returns the state of an object that a write starts from.
func (s *store) state(gr schema.GroupResource, k key) state {
	s.mu.RLock()
	defer s.mu.RUnlock()
	e := s.tableOf(gr).entries[k]
	if e == nil {
		return state{}
	}
	d, live := e.liveDesired()
	return state{effective: e.effective, desired: d, live: live, local: e.local}
}

// endUnreported returns entry.endUnreported of one object.
func (s *store) endUnreported(gr schema.GroupResource, k key) (desired, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if e := s.tableOf(gr).entries[k]; e != nil {
		return e.endUnreported()
	}
	return desired{}, false
}

// list returns the matching objects, sorted by namespace and name, and the present resource
// version.
func (s *store) list(gr schema.GroupResource, sel selection) ([]*object, uint64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.tableOf(gr).list(sel), s.rv
}

// recompute computes the effective object of k again and publishes the change to watchers.
// After an error the object is unchanged. When the UID of a node changes, so does the owner
// of its CSINode.
func (s *store) recompute(t *table, k key, e *entry) error {
	uid := e.uid()
	if err := s.recomputeEntry(t, k, e); err != nil {
		return err
	}
	if t.GroupResource() != nodesGR || e.uid() == uid {
		return nil
	}
	csi := s.tables[csiNodesGR]
	if csi == nil || csi.entries[k] == nil {
		return nil
	}
	return s.recomputeEntry(csi, k, csi.entries[k])
}

func (s *store) recomputeEntry(t *table, k key, e *entry) error {
	d, err := merge(t.GroupResource(), e)
	if err == nil && d != nil && t.GroupResource() == csiNodesGR {
		if node := s.tableOf(nodesGR).entries[k]; node != nil {
			err = ownedByNode(d, k.name, node.uid())
		}
	}
	if err != nil {
		return err
	}
	old := e.effective
	if d == nil {
		if old == nil {
			return nil
		}
		return s.removeEffective(t, e, old)
	}
	next, err := newObject(t.resource, k, d, s.rv+1)
	if err != nil {
		return err
	}
	// A node that registered here keeps its identity when the cloud gives it another UID.
	replaced := old != nil && old.uid != next.uid && t.GroupResource() != nodesGR
	switch {
	case replaced:
		if err := s.removeEffective(t, e, old); err != nil {
			return err
		}
		if next, err = next.withVersion(s.rv + 1); err != nil {
			return err
		}
		e.createdRV = next.rv
		s.publish(t, watch.Added, nil, next)
	case old == nil:
		e.createdRV = next.rv
		s.publish(t, watch.Added, nil, next)
	case old.digest == next.digest:
		return nil
	default:
		s.publish(t, watch.Modified, old, next)
	}
	e.effective = next
	return nil
}

func (s *store) removeEffective(t *table, e *entry, old *object) error {
	last, err := old.withVersion(s.rv + 1)
	if err != nil {
		return err
	}
	e.effective, e.contentVersion = nil, ""
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

// startHistory ends the loading of the store: events are recorded from now on.
func (s *store) startHistory(onChange func(resource, watch.EventType, *object)) {
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

// tableOf returns the table of a resource, an empty one if it does not exist.
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
		if e.effective != nil && sel.matches(e.effective) {
			out = append(out, e.effective)
		}
	}
	slices.SortFunc(out, func(a, b *object) int {
		return cmp.Or(cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.name, b.name))
	})
	return out
}

// selection selects the objects of a list or a watch.
type selection struct {
	// namespace is empty for all namespaces.
	namespace string
	labels    labels.Selector
	fields    fields.Selector
}

func (s selection) matches(o *object) bool {
	return o != nil && (s.namespace == "" || s.namespace == o.namespace) &&
		s.fields.Matches(o) && s.labels.Matches(o.labels)
}
