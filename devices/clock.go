package devices

import "time"

// clockTolerance is how far the wall clock may be set back before samples are
// numbered anew. Below it their times stand still until the clock has caught up.
const clockTolerance = 10 * time.Second

// clock notices that the wall clock was set back, by comparing it with the monotonic
// one.
type clock struct {
	start  time.Time
	offset time.Duration
}

func newClock() clock { return clock{start: time.Now()} }

// setBack tells whether the wall clock was set back since the last call.
func (c *clock) setBack(now time.Time) bool {
	return c.step(now.Round(0).Sub(c.start.Round(0)), now.Sub(c.start))
}

// step is setBack of how far the wall clock and the monotonic one have come since
// the start.
func (c *clock) step(wall, monotonic time.Duration) bool {
	was := c.offset
	c.offset = wall - monotonic
	return c.offset < was-clockTolerance
}
