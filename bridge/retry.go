package bridge

import (
	"context"
	"time"

	"k8s.io/client-go/util/workqueue"
)

// The longest delays between tries. A publish fails at once while the hub is away, so
// that trying costs little and waiting costs sites their updates.
const (
	publishRetry = 2 * time.Second
	writeRetry   = 5 * time.Second
)

func retryDelays[T comparable](longest time.Duration) workqueue.TypedRateLimiter[T] {
	return workqueue.NewTypedItemExponentialFailureRateLimiter[T](100*time.Millisecond, longest)
}

// backoff is how long to wait after the nth failure in a row, from 100 ms to 30 s.
func backoff(n int) time.Duration {
	return min(100*time.Millisecond<<min(n, 9), 30*time.Second)
}

// pause waits for d or for ctx to end, and says whether ctx is still alive.
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
