package objects

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

// Store holds the objects. It is safe for concurrent use.
type Store struct {
	mu sync.RWMutex
	// rv is the last resource version that was assigned.
	rv       uint64
	arrivals uint64
	catalog  catalog
	tables   tables
	// offline is set while the site has no link (SetOffline).
	offline bool
	access  PodAccess
	// onChange is called for every event after StartHistory, with the lock held.
	onChange func(schema.GroupResource, watch.EventType, *Object)
}

// table holds the objects of one resource.
type table struct {
	schema.GroupResource
	entries map[Key]*entry
	history history
}

type tables map[schema.GroupResource]*table

// New returns a store of resources. It adds other resources as their first objects arrive. It
// assigns resource versions above rv. access is how pods reach the API.
func New(rv uint64, resources []Resource, access PodAccess) *Store {
	return &Store{access: access, rv: rv, catalog: newCatalog(resources), tables: tables{}}
}

// Lookup returns a resource, if it is stored in the version of gvr.
func (s *Store) Lookup(gvr schema.GroupVersionResource) (Resource, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	r, ok := s.catalog[gvr.GroupResource()]
	return r, ok && r.Version == gvr.Version
}

// Resources returns all resources, sorted by group and name.
func (s *Store) Resources() []Resource {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.catalog.sorted()
}

// Apply applies a desired message if it is newer than the present one. Every error is
// streams.ErrUndecodable and leaves the store unchanged.
func (s *Store) Apply(m streams.Message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.Op != streams.OpDelete {
		if err := s.catalog.admit(m); err != nil {
			return err
		}
	}
	gr := schema.GroupResource{Group: m.Group, Resource: m.Resource}
	if _, known := s.catalog[gr]; !known && s.tables[gr] == nil {
		// The tombstone of a resource that never had an object here.
		return nil
	}
	t, k := s.tables.create(gr, s.rv), Key{m.Namespace, m.Name}
	e := t.entry(k)
	before, had := e.desired[m.Node]
	if had && !before.supersededBy(m) {
		return nil
	}
	s.arrivals++
	e.desired[m.Node] = Desired{
		deleted: m.Op == streams.OpDelete, UID: m.UID, Stamp: m.Stamp(),
		Arrival: s.arrivals, Body: m.Object,
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
	if d := e.desired[m.Node]; !d.deleted && e.effective != nil && e.effective.UID == d.UID && !isMerged(gr) && e.local == nil {
		// The effective object has the same content: one copy is enough.
		d.Body = e.effective.JSON
		e.desired[m.Node] = d
	}
	return nil
}

// SetLocal replaces the local state of an object, nil to remove it. It returns the effective
// object, nil if there is none. After an error the object is unchanged.
func (s *Store) SetLocal(gr schema.GroupResource, k Key, l *Local) (*Object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.setLocal(gr, k, l)
}

// RemoveLocal removes the local state of an object if it is still the message at seq.
func (s *Store) RemoveLocal(gr schema.GroupResource, k Key, seq uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.tables.of(gr).entries[k]; e == nil || e.local == nil || e.local.Seq != seq {
		return nil
	}
	_, err := s.setLocal(gr, k, nil)
	return err
}

func (s *Store) setLocal(gr schema.GroupResource, k Key, l *Local) (*Object, error) {
	t := s.tables.create(gr, s.rv)
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

// ExpireTombstones removes the tombstones that were applied before a time and whose objects
// have no other state. It returns their number.
func (s *Store) ExpireTombstones(before time.Time) (n int) {
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

// Get returns the effective object, nil if there is none.
func (s *Store) Get(gr schema.GroupResource, k Key) *Object {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if e := s.tables.of(gr).entries[k]; e != nil {
		return e.effective
	}
	return nil
}

// State returns the state of an object, the zero State if nothing is known about it.
func (s *Store) State(gr schema.GroupResource, k Key) State {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if e := s.tables.of(gr).entries[k]; e != nil {
		return e.state()
	}
	return State{}
}

// Each calls f with the state of every name of a resource. f is called with the store's lock
// held: it must not block and must not call the store.
func (s *Store) Each(gr schema.GroupResource, f func(Key, State)) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for k, e := range s.tables.of(gr).entries {
		f(k, e.state())
	}
}

// List returns the matching objects, sorted by namespace and name, and the present resource
// version.
func (s *Store) List(gr schema.GroupResource, sel Selection) ([]*Object, uint64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.tables.of(gr).list(sel), s.rv
}

// StartHistory ends the loading of the store: from now on events are recorded, and onChange is
// called for each, nil for none. onChange is called with the store's lock held: it must not
// block and must not call the store.
func (s *Store) StartHistory(onChange func(schema.GroupResource, watch.EventType, *Object)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onChange = onChange
	for _, t := range s.tables {
		t.history = history{}
		t.history.start(s.rv)
	}
}

// recompute computes the effective object of k again and publishes the change to watchers.
// After an error the object is unchanged. When the UID of a node changes, so does the owner
// of its CSINode; when a pod changes, or a node comes or goes, so do the endpoints there.
func (s *Store) recompute(t *table, k Key, e *entry) error {
	before, uid := e.effective, e.uid()
	if err := s.recomputeEntry(t, k, e); err != nil {
		return err
	}
	if e.effective != before {
		if err := s.catalog.changed(s.tables, t.GroupResource, k, e.effective); err != nil {
			return err
		}
	}
	podChanged := t.GroupResource == Pods && e.effective != before
	nodeChanged := t.GroupResource == Nodes && (e.effective == nil) != (before == nil)
	if endpoints := s.tables.of(EndpointSlices); podChanged || nodeChanged {
		for name, slice := range endpoints.entries {
			if slice.effective == nil || podChanged && !slice.pods.Has(k) {
				continue
			}
			if err := s.recomputeEntry(endpoints, name, slice); err != nil {
				return fmt.Errorf("endpoint slice %s: %w", name, err)
			}
		}
	}
	if t.GroupResource != Nodes || e.uid() == uid {
		return nil
	}
	csi := s.tables.of(CSINodes)
	if csi.entries[k] == nil {
		return nil
	}
	return s.recomputeEntry(csi, k, csi.entries[k])
}

func (s *Store) recomputeEntry(t *table, k Key, e *entry) error {
	d, err := merge(t.GroupResource, e)
	if err == nil && d != nil && t.GroupResource == CSINodes {
		if node := s.tables.of(Nodes).entries[k]; node != nil {
			err = ownedByNode(d, k.Name, node.uid())
		}
	}
	switch {
	case err != nil, d == nil:
	case t.GroupResource == Pods && s.offline:
		err = withImagesOnDisk(d)
	case t.GroupResource == EndpointSlices:
		e.pods, err = s.tables.localEndpoints(d, k.Namespace, s.access)
	case t.GroupResource == ConfigMaps && k.Name == rootCAName:
		err = s.access.withAuthority(d)
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
	r, served := s.catalog[t.GroupResource]
	if !served {
		return fmt.Errorf("resource %s is not served", t.GroupResource)
	}
	next, err := newObject(r, k, d, s.rv+1)
	if err != nil {
		return err
	}
	// A node that registered here keeps its identity when the cloud gives it another UID.
	replaced := old != nil && old.UID != next.UID && t.GroupResource != Nodes
	switch {
	case replaced:
		if err := s.removeEffective(t, e, old); err != nil {
			return err
		}
		if next, err = next.withVersion(s.rv + 1); err != nil {
			return err
		}
		e.createdRV = next.ResourceVersion
		s.publish(t, watch.Added, nil, next)
	case old == nil:
		e.createdRV = next.ResourceVersion
		s.publish(t, watch.Added, nil, next)
	case old.digest == next.digest:
		return nil
	default:
		s.publish(t, watch.Modified, old, next)
	}
	e.effective = next
	return nil
}

func (s *Store) removeEffective(t *table, e *entry, old *Object) error {
	last, err := old.withVersion(s.rv + 1)
	if err != nil {
		return err
	}
	e.effective, e.contentVersion = nil, ""
	s.publish(t, watch.Deleted, old, last)
	return nil
}

func (s *Store) publish(t *table, kind watch.EventType, old, obj *Object) {
	s.rv = obj.ResourceVersion
	t.history.add(Event{Kind: kind, Object: obj, old: old})
	if s.onChange != nil {
		s.onChange(t.GroupResource, kind, obj)
	}
}

// create returns the table of a resource. If it does not exist it creates one, whose history begins
// at rv.
func (ts tables) create(gr schema.GroupResource, rv uint64) *table {
	t := ts[gr]
	if t == nil {
		t = &table{GroupResource: gr, entries: map[Key]*entry{}}
		t.history.start(rv)
		ts[gr] = t
	}
	return t
}

// of returns the table of a resource, an empty one if it does not exist.
func (ts tables) of(gr schema.GroupResource) *table {
	if t := ts[gr]; t != nil {
		return t
	}
	return &table{GroupResource: gr}
}

func (t *table) entry(k Key) *entry {
	e := t.entries[k]
	if e == nil {
		e = &entry{desired: map[string]Desired{}}
		t.entries[k] = e
	}
	return e
}

func (t *table) list(sel Selection) []*Object {
	var out []*Object
	for _, e := range t.entries {
		if e.effective != nil && sel.matches(e.effective) {
			out = append(out, e.effective)
		}
	}
	slices.SortFunc(out, func(a, b *Object) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// Selection selects the objects of a list or a watch. The zero value selects all.
type Selection struct {
	// Namespace is empty for all namespaces.
	Namespace string
	// Labels and Fields are nil for all labels and fields. Fields may use the fields that are
	// Selectable.
	Labels labels.Selector
	Fields fields.Selector
}

func (s Selection) matches(o *Object) bool {
	return o != nil && (s.Namespace == "" || s.Namespace == o.Namespace) &&
		(s.Fields == nil || s.Fields.Matches(o)) && (s.Labels == nil || s.Labels.Matches(o.labels))
}
