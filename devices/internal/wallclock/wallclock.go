// Package wallclock detects that the wall clock was set, by comparing it with the monotonic clock of
// this process. The workers of devices use it. It does no I/O.
package wallclock

import "time"

// tolerance is how far the wall clock may be set back without a new epoch. Within it the times of
// samples stand still until the clock has caught up.
const tolerance = 10 * time.Second

// smallestStep is the smallest change of the wall clock that counts as set, and not as corrected.
const smallestStep = time.Second

// Clock compares the two clocks. Use New. It is not safe for concurrent use.
type Clock struct {
	start time.Time
	// Offset is how far the wall clock was ahead at the last look, beyond what it was at the start.
	Offset time.Duration
}

// New returns a Clock that compares from now on.
func New() Clock { return Clock{start: time.Now()} }

// SetBack reports whether the wall clock was set back since the last call.
func (c *Clock) SetBack(now time.Time) bool {
	return c.step(now.Round(0).Sub(c.start.Round(0)), now.Sub(c.start))
}

// Stepped returns how far the wall clock was set ahead since the last call, 0 if it was not set.
func (c *Clock) Stepped(now time.Time) time.Duration {
	offset := now.Round(0).Sub(c.start.Round(0)) - now.Sub(c.start)
	by := offset - c.Offset
	if by.Abs() < smallestStep {
		return 0
	}
	c.Offset = offset
	return by
}

// step is SetBack, given the time since the start by the wall clock and by the monotonic clock.
func (c *Clock) step(wall, monotonic time.Duration) bool {
	was := c.Offset
	c.Offset = wall - monotonic
	return c.Offset < was-tolerance
}
