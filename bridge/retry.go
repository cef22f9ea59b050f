package bridge

import (
	"context"
	"time"

	"k8s.io/client-go/util/workqueue"
)

// The longest delays between retries. While the hub is unavailable, publishing fails at once:
// a retry costs little, and a long delay would hold back the sites' updates.
const (
	publishRetry = 2 * time.Second
	writeRetry   = 5 * time.Second
)

func retryDelays[T comparable](longest time.Duration) workqueue.TypedRateLimiter[T] {
	return workqueue.NewTypedItemExponentialFailureRateLimiter[T](100*time.Millisecond, longest)
}

// backoff returns the delay after the nth failure in a row, from 100 ms to 30 s.
func backoff(n int) time.Duration {
	return min(100*time.Millisecond<<min(n, 9), 30*time.Second)
}

// sleep waits for d. It returns false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
