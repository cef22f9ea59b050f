package report

import "time"

// origin is when the process started; a clock that is set does not move the shared times.
var origin = time.Now()

// untilShared returns how long it is until the next multiple of an interval since the process
// started. All devices pass on what they gathered at these times, so that one commit stores it.
func untilShared(interval time.Duration) time.Duration {
	return interval - time.Since(origin)%interval
}
