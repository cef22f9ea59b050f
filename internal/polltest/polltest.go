// Package polltest waits in tests for what happens some time later.
//
// Its deadlines are there to end a test that has failed, not to measure: they are generous
// enough for a slow and busy machine, and a condition that holds is noticed within
// milliseconds. Nothing outside tests may import it.
package polltest

import (
	"context"
	"errors"
	"testing"
	"time"
)

// Limit is how long Eventually and NoError wait.
const Limit = 2 * time.Minute

// The condition is polled every interval for eager, and every patientInterval after that:
// most hold soon, and a question to a server under the race detector every few milliseconds
// takes the processor from what is waited for.
const (
	interval        = 5 * time.Millisecond
	eager           = 250 * time.Millisecond
	patientInterval = 20 * time.Millisecond
)

var errNotYet = errors.New("the condition does not hold")

// Eventually polls until the condition holds and returns how long that took. After Limit
// it ends the test with what was waited for. The condition is called on the test's
// goroutine, so it may end the test itself.
func Eventually(t testing.TB, what string, condition func() bool) time.Duration {
	t.Helper()
	return Within(t, Limit, what, condition)
}

// Within is Eventually with a limit of its own.
func Within(t testing.TB, limit time.Duration, what string, condition func() bool) time.Duration {
	t.Helper()
	return NoErrorWithin(t, limit, what, func(context.Context) error {
		if condition() {
			return nil
		}
		return errNotYet
	})
}

// NoError polls until f returns nil and returns how long that took. After Limit it ends
// the test with what was waited for and the last error, which names what was still wrong.
// The context of f ends at the limit.
func NoError(t testing.TB, what string, f func(context.Context) error) time.Duration {
	t.Helper()
	return NoErrorWithin(t, Limit, what, f)
}

// NoErrorWithin is NoError with a limit of its own.
func NoErrorWithin(t testing.TB, limit time.Duration, what string, f func(context.Context) error) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), limit) // a Cleanup may wait, too
	defer cancel()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	start, patient := time.Now(), false
	// A context that has ended hides the error before it.
	var last error
	for {
		err := f(ctx)
		if err == nil {
			return time.Since(start)
		}
		if last == nil || ctx.Err() == nil {
			last = err
		}
		if !patient && time.Since(start) >= eager {
			patient = true
			tick.Reset(patientInterval)
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not within %s: %v", what, limit, last)
		case <-tick.C:
		}
	}
}
