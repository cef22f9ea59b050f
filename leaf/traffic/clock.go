package traffic

import "time"

// clock is the bridge's clock, as far as it is known. It advances by the monotonic clock of the
// gateway, so that it stays right when the gateway's own clock is set.
type clock struct {
	bridge time.Time
	// at is when it was heard.
	at time.Time
}

// date returns the day in UTC, "" if the bridge's clock is not known.
func (c clock) date(now time.Time) string {
	if c.bridge.IsZero() {
		return ""
	}
	return c.bridge.Add(now.Sub(c.at)).UTC().Format(time.DateOnly)
}
