package breaker

import (
	"context"
	"sync"
)

// pausable pauses workers at a point where none of them is in the
// middle of something. The zero value runs.
type pausable struct {
	// mu is held for reading while a worker is in the middle of something.
	mu sync.RWMutex

	guard sync.Mutex
	// ended is closed by pause and created again by the last resume.
	ended chan struct{}
	held  int
}

// do runs f with a context that ends when somebody pauses. It waits while somebody does.
func (p *pausable) do(ctx context.Context, f func(context.Context)) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	ended := p.session()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	f(ctx)
}

// session is closed when somebody pauses.
func (p *pausable) session() <-chan struct{} {
	p.guard.Lock()
	defer p.guard.Unlock()
	return p.open()
}

// open returns the channel of the present session. The guard must be held.
func (p *pausable) open() chan struct{} {
	if p.ended == nil {
		p.ended = make(chan struct{})
	}
	return p.ended
}

// pause makes the workers stop and returns when none is in the middle of something.
// Each call needs a resume; calls by several are counted.
func (p *pausable) pause() {
	p.guard.Lock()
	p.held++
	first := p.held == 1
	if first {
		close(p.open())
	}
	p.guard.Unlock()
	if first {
		p.mu.Lock()
	}
}

func (p *pausable) resume() {
	p.guard.Lock()
	defer p.guard.Unlock()
	if p.held--; p.held == 0 {
		p.ended = nil
		p.mu.Unlock()
	}
}
