package storage

import (
	"context"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestStorageBarrier: publishing waits for a check that began after the API server's last
// response; an earlier check does not count.
func TestStorageBarrier(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newBarrier()
		if err := l.wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		early := l.current()
		l.invalidate()
		done := make(chan error, 1)
		go func() { done <- l.wait(t.Context()) }()
		l.confirm(early)
		synctest.Wait()
		select {
		case err := <-done:
			t.Fatalf("a look from before was enough: %v", err)
		case <-l.checkDue:
		}
		l.confirm(l.current())
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		l.invalidate()
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if err := l.wait(ended); err == nil {
			t.Error("nothing was waited for")
		}
	})
}
