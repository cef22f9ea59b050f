package storage

import (
	"context"
	"sync"
)

// barrier blocks publishing until the API server's storage has been checked. A list or
// a new watch may come from a storage that was restored from an older copy; its content then
// belongs to another epoch. It is safe for concurrent use.
type barrier struct {
	// checkDue is signalled when the storage must be checked.
	checkDue chan struct{}

	mu                   sync.Mutex
	responses, confirmed uint64
	advanced             chan struct{} // closed and replaced when confirmed grows
}

func newBarrier() *barrier {
	return &barrier{checkDue: make(chan struct{}, 1), advanced: make(chan struct{})}
}

// invalidate records that an API server has answered a list or started a watch.
func (b *barrier) invalidate() {
	b.mu.Lock()
	b.responses++
	b.mu.Unlock()
	b.requestCheck()
}

// requestCheck requests a check.
func (b *barrier) requestCheck() {
	select {
	case b.checkDue <- struct{}{}:
	default:
	}
}

// current returns the number of responses that a check started now covers.
func (b *barrier) current() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.responses
}

// confirm records that the storage was verified after the given number of API responses.
func (b *barrier) confirm(responses uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if responses > b.confirmed {
		b.confirmed = responses
		close(b.advanced)
		b.advanced = make(chan struct{})
	}
}

// wait blocks until a check covers all responses so far, or ctx ends.
func (b *barrier) wait(ctx context.Context) error {
	b.mu.Lock()
	want := b.responses
	b.mu.Unlock()
	for {
		b.mu.Lock()
		enough, advanced := b.confirmed >= want, b.advanced
		b.mu.Unlock()
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
