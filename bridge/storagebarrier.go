package bridge

import (
	"context"
	"sync"
)

// lookout holds back what the watch has heard until the API server's storage has been
// looked at: a list, or a watch that begins, may come from a storage that was restored
// from an older copy, and what it says is then of another epoch. It is safe for concurrent
// use.
type storageBarrier struct {
	// due is not empty when the storage is to be looked at.
	checkDue chan struct{}

	mu                   sync.Mutex
	responses, confirmed uint64
	advanced             chan struct{} // closed and made anew when seen grows
}

func newStorageBarrier() *storageBarrier {
	return &storageBarrier{checkDue: make(chan struct{}, 1), advanced: make(chan struct{})}
}

// heard notes that an API server has answered a list or begun a watch.
func (l *storageBarrier) invalidate() {
	l.mu.Lock()
	l.responses++
	l.mu.Unlock()
	l.requestCheck()
}

// again asks for a look.
func (l *storageBarrier) requestCheck() {
	select {
	case l.checkDue <- struct{}{}:
	default:
	}
}

// now is what a look that begins now covers.
func (l *storageBarrier) current() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.responses
}

// cover notes that the storage was found to be the one that it was, by a look that covers
// answers.
func (l *storageBarrier) confirm(answers uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if answers > l.confirmed {
		l.confirmed = answers
		close(l.advanced)
		l.advanced = make(chan struct{})
	}
}

// await blocks until all that was heard so far is covered, or ctx ends.
func (l *storageBarrier) wait(ctx context.Context) error {
	l.mu.Lock()
	want := l.responses
	l.mu.Unlock()
	for {
		l.mu.Lock()
		enough, looked := l.confirmed >= want, l.advanced
		l.mu.Unlock()
		if enough {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-looked:
		}
	}
}
