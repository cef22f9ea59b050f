package e2e

import (
	"context"
	"testing"
	"time"

	"github.com/petiole-io/petiole/internal/e2e/rig"
)

// slack is how much longer than promised something may take on a shared machine before
// the test fails.
const slack = 3

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

// measured prints a time with its goal and fails the test when it is out of all
// proportion.
func measured(t *testing.T, what string, took, goal time.Duration) {
	t.Helper()
	t.Logf("MEASURED %s: %s (goal %s)", what, took.Round(time.Millisecond), goal)
	if took > slack*goal {
		t.Errorf("%s took %s, more than %d times the goal of %s", what, took.Round(time.Millisecond), slack, goal)
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
