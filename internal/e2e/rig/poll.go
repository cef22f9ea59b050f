package rig

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// pollInterval is the interval at which a condition is checked.
	pollInterval = 50 * time.Millisecond
	// attemptLimit bounds one try: a request that was sent into a dead connection is
	// never answered.
	attemptLimit = 5 * time.Second
)

// ErrNever reports, from a condition, that it can no longer become true.
var ErrNever = errors.New("can never become true")

// Poll tries cond until it returns nil. When ctx ends first, or cond returns ErrNever,
// the error says what was waited for and what was still wrong.
func Poll(ctx context.Context, what string, cond func(context.Context) error) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	var last error
	for {
		err := attempt(ctx, cond)
		if err == nil {
			return nil
		}
		if errors.Is(err, ErrNever) {
			return fmt.Errorf("%s: %w", what, err)
		}
		// What a request that was cut off by the deadline says hides the real cause.
		if ctx.Err() == nil || last == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w: %w", what, ctx.Err(), last)
		case <-tick.C:
		}
	}
}

func attempt(ctx context.Context, cond func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, attemptLimit)
	defer cancel()
	return cond(ctx)
}
