package bridge

import (
	"context"
	"sync"
)

// storageBarrier blocks publishing until the API server's storage has been checked. A list or
// a new watch may come from a storage that was restored from an older copy; its content then
// belongs to another epoch. It is safe for concurrent use.
type storageBarrier struct {
	// checkDue is signalled when the storage must be checked.
	checkDue chan struct{}

	mu                   sync.Mutex
	responses, confirmed uint64
	advanced             chan struct{} // closed and replaced when confirmed grows
}

func newStorageBarrier() *storageBarrier {
	return &storageBarrier{checkDue: make(chan struct{}, 1), advanced: make(chan struct{})}
}

// invalidate records that an API server has answered a list or started a watch.
func (l *storageBarrier) invalidate() {
	l.mu.Lock()
	l.responses++
	l.mu.Unlock()
	l.requestCheck()
}

// requestCheck requests a check.
func (l *storageBarrier) requestCheck() {
	select {
	case l.checkDue <- struct{}{}:
	default:
	}
}

// current returns the number of responses that a check started now covers.
func (l *storageBarrier) current() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.responses
}

// confirm records that the storage was verified after the given number of API responses.
func (l *storageBarrier) confirm(responses uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if responses > l.confirmed {
		l.confirmed = responses
		close(l.advanced)
		l.advanced = make(chan struct{})
	}
}

// wait blocks until a check covers all responses so far, or ctx ends.
func (l *storageBarrier) wait(ctx context.Context) error {
	l.mu.Lock()
	want := l.responses
	l.mu.Unlock()
	for {
		l.mu.Lock()
		enough, advanced := l.confirmed >= want, l.advanced
		l.mu.Unlock()
		if enough {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-advanced:
		}
	}
}
