package breaker

import (
	"context"
	"sync"
)

// pausable lets somebody else hold up workers at a point where none of them is in the
// middle of something. The zero value runs.
type pausable struct {
	// mu is held for reading while a worker is in the middle of something.
	mu sync.RWMutex

	guard   sync.Mutex
	session context.Context
	cancel  context.CancelFunc
	held    int
}

// do runs f with a context that ends when somebody pauses. It waits while somebody does.
func (p *pausable) do(ctx context.Context, f func(context.Context)) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.current(), cancel)()
	f(ctx)
}

// current ends when somebody pauses.
func (p *pausable) current() context.Context {
	p.guard.Lock()
	defer p.guard.Unlock()
	if p.session == nil {
		p.session, p.cancel = context.WithCancel(context.Background())
	}
	return p.session
}

// pause makes the workers stop and returns when none is in the middle of something.
// Each call needs a resume; calls by several are counted.
func (p *pausable) pause() {
	p.guard.Lock()
	p.held++
	first := p.held == 1
	if p.session == nil {
		p.session, p.cancel = context.WithCancel(context.Background())
	}
	cancel := p.cancel
	p.guard.Unlock()
	if first {
		cancel()
		p.mu.Lock()
	}
}

func (p *pausable) resume() {
	p.guard.Lock()
	defer p.guard.Unlock()
	if p.held--; p.held == 0 {
		p.session, p.cancel = context.WithCancel(context.Background())
		p.mu.Unlock()
	}
}
