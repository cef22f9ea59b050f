package modbus

import (
	"slices"
	"time"
)

// latencies are how long a unit took for its last answers, without the time that
// their characters take on the line. It is pure but for its own fields.
type latencies struct {
	last     [32]time.Duration
	count    int
	cautious bool // the last request was not answered
}

// latencyMargin times the longest of the last latencies is waited for an answer.
const latencyMargin = 4

func (l *latencies) answered(d time.Duration) {
	l.last[l.count%len(l.last)] = d
	l.count++
	l.cautious = false
}

func (l *latencies) missed() { l.cautious = true }

// known tells that enough was seen to draw conclusions.
func (l *latencies) known() bool { return l.count >= len(l.last) }

func (l *latencies) longest() time.Duration { return slices.Max(l.last[:]) }

// timeout is how long the next answer is waited for, between shortest and longest. It
// is the longest until enough was seen, and after every miss: an answer that is only
// slower than before is lost once at most.
func (l *latencies) timeout(shortest, longest time.Duration) time.Duration {
	if !l.known() || l.cautious {
		return longest
	}
	return min(max(latencyMargin*l.longest(), shortest), longest)
}
