package report

import "time"

const (
	// A device may emit eventBurst events at once, and one more every eventRefill.
	eventBurst  = 10
	eventRefill = 10 * time.Second
)

// eventLimiter bounds the events of one device with a token bucket.
type eventLimiter struct {
	tokens  float64
	at      time.Time
	skipped int
}

func newEventLimiter(now time.Time) eventLimiter { return eventLimiter{tokens: eventBurst, at: now} }

// allow reports whether an event may be emitted now, and how many were skipped since the
// last one.
func (q *eventLimiter) allow(now time.Time) (skipped int, ok bool) {
	q.tokens = min(eventBurst, q.tokens+max(now.Sub(q.at).Seconds(), 0)/eventRefill.Seconds())
	q.at = now
	if q.tokens < 1 {
		q.skipped++
		return 0, false
	}
	skipped, q.skipped = q.skipped, 0
	q.tokens--
	return skipped, true
}
