package e2e

import (
	"context"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/petiole-io/petiole/internal/e2e/rig"
)

// condition is something to wait for; nil is success.
type condition = func(context.Context) error

// timed polls all conditions at the same time and returns when each first held, since
// start. The test fails when one does not within limit.
func timed(t *testing.T, start time.Time, limit time.Duration, conditions map[string]condition) map[string]time.Duration {
	t.Helper()
	ctx, cancel := context.WithDeadline(t.Context(), start.Add(limit))
	defer cancel()
	var (
		mu   sync.Mutex
		took = map[string]time.Duration{}
		why  = map[string]error{}
		errs []error
		wg   sync.WaitGroup
	)
	for what, cond := range conditions {
		wg.Go(func() {
			var last error
			err := rig.Poll(ctx, what, func(ctx context.Context) error {
				err := cond(ctx)
				if err != nil {
					last = err
				}
				return err
			})
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
				return
			}
			took[what], why[what] = time.Since(start), last
		})
	}
	wg.Wait()
	for _, what := range slices.Sorted(maps.Keys(took)) {
		t.Logf("  after %7s: %s", took[what].Round(time.Millisecond), what)
		if took[what] > convergeGoal && why[what] != nil {
			t.Logf("                 until then: %v", why[what])
		}
	}
	for _, err := range errs {
		t.Errorf("within %s: %v", limit, err)
	}
	if len(errs) > 0 {
		t.FailNow()
	}
	return took
}

// last returns the longest of them.
func last(took map[string]time.Duration) time.Duration {
	var longest time.Duration
	for _, d := range took {
		longest = max(longest, d)
	}
	return longest
}
