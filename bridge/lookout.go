package bridge

import (
	"context"
	"sync"
)

// lookout holds back what the watch has heard until the API server's storage has been
// looked at: a list, or a watch that begins, may come from a storage that was restored
// from an older copy, and what it says is then of another epoch. It is safe for concurrent
// use.
type lookout struct {
	// due is not empty when the storage is to be looked at.
	due chan struct{}

	mu            sync.Mutex
	answers, seen uint64
	looked        chan struct{} // closed and made anew when seen grows
}

func newLookout() *lookout {
	return &lookout{due: make(chan struct{}, 1), looked: make(chan struct{})}
}

// heard notes that an API server has answered a list or begun a watch.
func (l *lookout) heard() {
	l.mu.Lock()
	l.answers++
	l.mu.Unlock()
	l.again()
}

// again asks for a look.
func (l *lookout) again() {
	select {
	case l.due <- struct{}{}:
	default:
	}
}

// now is what a look that begins now covers.
func (l *lookout) now() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.answers
}

// cover notes that the storage was found to be the one that it was, by a look that covers
// answers.
func (l *lookout) cover(answers uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if answers > l.seen {
		l.seen = answers
		close(l.looked)
		l.looked = make(chan struct{})
	}
}

// await blocks until all that was heard so far is covered, or ctx ends.
func (l *lookout) await(ctx context.Context) error {
	l.mu.Lock()
	want := l.answers
	l.mu.Unlock()
	for {
		l.mu.Lock()
		enough, looked := l.seen >= want, l.looked
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
