package store

import (
	"slices"
	"sync"
)

// degraded is the set of reasons for which the store is degraded (streams.DegradedDiskFull and
// others). The zero value is empty. It is safe for concurrent use.
type degraded struct {
	mu    sync.Mutex
	names []string
}

// set adds or removes a reason and reports whether that changed the set.
func (d *degraded) set(name string, on bool) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	i, have := slices.BinarySearch(d.names, name)
	switch {
	case on && !have:
		d.names = slices.Insert(d.names, i, name)
	case !on && have:
		d.names = slices.Delete(d.names, i, i+1)
	default:
		return false
	}
	return true
}

// list returns the reasons, sorted.
func (d *degraded) list() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.names)
}
