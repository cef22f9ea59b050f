package link

import "time"

// breaker is the circuit breaker of one unit. After breakerThreshold unanswered requests in
// a row it opens and allows one probe per back-off, which starts at firstBackoff and
// doubles. It does no I/O and reads no clock. The zero breaker is closed.
type breaker struct {
	failures int
	backoff  time.Duration
	next     time.Time
}

const (
	breakerThreshold = 3
	firstBackoff     = time.Second
)

// allows reports whether a request may be sent to the unit now.
func (b *breaker) allows(now time.Time) bool { return b.backoff == 0 || !now.Before(b.next) }

// open reports whether the unit is considered silent, so that the next request is a probe.
func (b *breaker) open() bool { return b.backoff != 0 }

// recordSuccess closes the breaker.
func (b *breaker) recordSuccess() { *b = breaker{} }

// recordFailure counts an unanswered request. Longest bounds the back-off. Jitter is in
// [0, 1) and keeps units from being probed in step.
func (b *breaker) recordFailure(now time.Time, longest time.Duration, jitter float64) {
	b.failures++
	if b.failures < breakerThreshold {
		return
	}
	b.backoff = min(max(2*b.backoff, firstBackoff), longest)
	b.next = now.Add(b.backoff - time.Duration(jitter*float64(b.backoff)/4))
}

// defaultMaxBackoff returns the longest back-off for a unit. Alone on its link it delays
// no other unit; otherwise its probes may take about two percent of the link's time.
func defaultMaxBackoff(alone bool, timeout time.Duration) time.Duration {
	if alone {
		return 5 * time.Second
	}
	return min(max(50*timeout, 5*time.Second), time.Minute)
}
