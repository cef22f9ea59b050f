package link

import (
	"slices"
	"time"
)

// latencies keeps how long a unit took for its last replies, without the time that their
// characters take on the line.
type latencies struct {
	last     [32]time.Duration
	count    int
	timedOut bool // the last request got no reply
}

// A reply is awaited for latencyMargin times the longest of the last latencies.
const latencyMargin = 4

func (l *latencies) add(d time.Duration) {
	l.last[l.count%len(l.last)] = d
	l.count++
	l.timedOut = false
}

func (l *latencies) recordTimeout() { l.timedOut = true }

// known reports whether enough replies were seen.
func (l *latencies) known() bool { return l.count >= len(l.last) }

func (l *latencies) longest() time.Duration { return slices.Max(l.last[:]) }

// timeout returns how long to wait for the next reply, between shortest and longest. It
// returns longest until enough replies were seen, and after every timeout, so that a unit
// that has become slower loses at most one reply.
func (l *latencies) timeout(shortest, longest time.Duration) time.Duration {
	if !l.known() || l.timedOut {
		return longest
	}
	return min(max(latencyMargin*l.longest(), shortest), longest)
}
