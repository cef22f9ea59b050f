package breaker

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/petiole-io/petiole/internal/polltest"
)

// TestNobodyWorksWhilePaused: pause ends what is under way, returns when nothing is, and
// nothing begins before the last resume.
func TestNobodyWorksWhilePaused(t *testing.T) {
	var p pausable
	var busy, begun atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				p.do(ctx, func(ctx context.Context) {
					busy.Add(1)
					defer busy.Add(-1)
					begun.Add(1)
					<-ctx.Done() // a watch that would last for ever
				})
			}
		})
	}
	polltest.Eventually(t, "four workers work", func() bool { return begun.Load() >= 4 })
	p.pause()
	p.pause()
	if n := busy.Load(); n != 0 {
		t.Errorf("%d work while paused", n)
	}
	p.resume()
	was := begun.Load()
	if n := busy.Load(); n != 0 {
		t.Errorf("%d work after the first of two resumes", n)
	}
	p.resume()
	polltest.Eventually(t, "somebody works after the last resume", func() bool { return begun.Load() > was })
	stop()
	wg.Wait()
}
