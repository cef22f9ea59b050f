package modbus

import "time"

// breaker decides when a unit that does not answer is asked again: after three
// misses in a row only once per step, from a second doubling to the longest. It is
// pure but for its own fields; the zero breaker is closed.
type breaker struct {
	misses int
	step   time.Duration
	next   time.Time
}

const (
	breakerMisses = 3
	breakerFirst  = time.Second
)

// allows tells whether the unit may be asked now.
func (b *breaker) allows(now time.Time) bool { return b.step == 0 || !now.Before(b.next) }

// open tells that the unit counts as silent: what is asked now is a probe.
func (b *breaker) open() bool { return b.step != 0 }

// answered closes the breaker.
func (b *breaker) answered() { *b = breaker{} }

// missed counts a silence. Jitter is in [0, 1) and keeps units from coming back in
// step; longest bounds the steps.
func (b *breaker) missed(now time.Time, longest time.Duration, jitter float64) {
	b.misses++
	if b.misses < breakerMisses {
		return
	}
	b.step = min(max(2*b.step, breakerFirst), longest)
	b.next = now.Add(b.step - time.Duration(jitter*float64(b.step)/4))
}

// longestStep is how rarely a silent unit is asked. Alone on its link it harms no
// other; else probes may take about two percent of the link's time.
func longestStep(alone bool, timeout time.Duration) time.Duration {
	if alone {
		return 5 * time.Second
	}
	return min(max(50*timeout, 5*time.Second), time.Minute)
}
