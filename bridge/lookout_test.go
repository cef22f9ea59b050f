package bridge

import (
	"context"
	"testing"
	"testing/synctest"
)

// TestLookout: what is published waits for a look that began after the API server was
// heard; one that began before covers nothing of it.
func TestLookout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLookout()
		if err := l.await(t.Context()); err != nil {
			t.Fatal(err)
		}
		early := l.now()
		l.heard()
		done := make(chan error, 1)
		go func() { done <- l.await(t.Context()) }()
		l.cover(early)
		synctest.Wait()
		select {
		case err := <-done:
			t.Fatalf("a look from before was enough: %v", err)
		case <-l.due:
		}
		l.cover(l.now())
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		l.heard()
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if err := l.await(ended); err == nil {
			t.Error("nothing was waited for")
		}
	})
}
