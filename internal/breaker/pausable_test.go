package breaker

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestNobodyWorksWhilePaused: pause ends what is under way, returns when nothing is, and
// nothing begins before the last resume.
func TestNobodyWorksWhilePaused(t *testing.T) {
	var p pausable
	var busy, begun atomic.Int64
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
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
	for begun.Load() < 4 {
		time.Sleep(time.Millisecond)
	}
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
	for begun.Load() == was && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	if ctx.Err() != nil {
		t.Error("nobody works after the last resume")
	}
	stop()
	wg.Wait()
}
