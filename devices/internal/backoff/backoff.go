// Package backoff computes and waits out the pauses between retries.
package backoff

import (
	"context"
	"time"
)

// Backoff is a pause that doubles with each retry. It is not safe for concurrent use.
type Backoff struct {
	// First is the first pause, and Max the longest.
	First, Max time.Duration

	last time.Duration
}

// Next returns the next pause: First, and then twice the last one, up to Max.
func (b *Backoff) Next() time.Duration {
	b.last = min(max(2*b.last, b.First), b.Max)
	return b.last
}

// Reset makes the next pause First again.
func (b *Backoff) Reset() { b.last = 0 }

// Wait sleeps for the next pause. It returns false if ctx ends first.
func (b *Backoff) Wait(ctx context.Context) bool { return Sleep(ctx, b.Next()) }

// Sleep sleeps for d. It returns false if ctx ends first.
func Sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
