package nodeapi

import (
	"sync"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// locks lets one write to an object pass at a time, while writes to others wait for
// the disk in parallel. The zero value is ready.
type locks struct {
	mu   sync.Mutex
	held map[lockKey]*heldLock
}

type lockKey struct {
	schema.GroupResource
	key
}

type heldLock struct {
	sync.Mutex
	users int
}

// lock waits for the object and returns what gives it free.
func (l *locks) lock(gr schema.GroupResource, k key) func() {
	id := lockKey{gr, k}
	l.mu.Lock()
	if l.held == nil {
		l.held = map[lockKey]*heldLock{}
	}
	h := l.held[id]
	if h == nil {
		h = &heldLock{}
		l.held[id] = h
	}
	h.users++
	l.mu.Unlock()
	h.Lock()
	return func() {
		h.Unlock()
		l.mu.Lock()
		defer l.mu.Unlock()
		if h.users--; h.users == 0 {
			delete(l.held, id)
		}
	}
}
