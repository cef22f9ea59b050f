package e2e

import (
	"context"
	"testing"
	"time"

	"github.com/petiole-io/petiole/internal/e2e/rig"
)

// eventually polls until cond returns nil and returns how long that took. After limit
// the test fails with what was still wrong.
func eventually(t *testing.T, limit time.Duration, what string, cond func(context.Context) error) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	start := time.Now()
	if err := rig.Poll(ctx, what, cond); err != nil {
		t.Fatalf("after %s: %v", time.Since(start).Round(time.Millisecond), err)
	}
	return time.Since(start)
}

// measured prints how long something that ended just now took, with its goal, and fails
// the test when that is longer than it may be.
func measured(t *testing.T, what string, took, goal time.Duration) {
	t.Helper()
	now := time.Now()
	measuredBetween(t, what, now.Add(-took), now, goal)
}

// measuredBetween is measured for what began and ended at these times.
func measuredBetween(t *testing.T, what string, from, to time.Time, goal time.Duration) {
	t.Helper()
	share, known := pressure.Between(from, to)
	took := to.Sub(from)
	bound, why := rig.Bound(goal, share, known)
	t.Logf("MEASURED %s: %s (goal %s, bound here %s: %s)", what, took.Round(time.Millisecond), goal, bound, why)
	if took > bound {
		t.Errorf("%s took %s, more than %s: %s", what, took.Round(time.Millisecond), bound, why)
	}
}

// must ends the test on an error.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// got is must for a call with a value.
func got[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
