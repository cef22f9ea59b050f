package host

import "time"

// clockTolerance is how far the wall clock may be set back without a new epoch. Within it
// the times of samples stand still until the clock has caught up.
const clockTolerance = 10 * time.Second

// clock detects that the wall clock was set back, by comparing it with the monotonic clock.
type clock struct {
	start  time.Time
	offset time.Duration
}

func newClock() clock { return clock{start: time.Now()} }

// setBack reports whether the wall clock was set back since the last call.
func (c *clock) setBack(now time.Time) bool {
	return c.step(now.Round(0).Sub(c.start.Round(0)), now.Sub(c.start))
}

// step is setBack, given the time since the start by the wall clock and by the monotonic
// clock.
func (c *clock) step(wall, monotonic time.Duration) bool {
	was := c.offset
	c.offset = wall - monotonic
	return c.offset < was-clockTolerance
}
