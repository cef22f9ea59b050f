package wire

import (
	"slices"
	"sync"
	"time"
)

// Unanswered lists the requests to each unit of a line to which no reply came. The reply may
// still come. It outlives connections and transports, since the line behind them is the same.
// The zero value is ready to use, also by several goroutines.
type Unanswered struct {
	mu    sync.Mutex
	units map[byte]*owed
}

// owed lists what one unit may still reply.
type owed struct {
	replies []owedReply
	// until is how long to wait for the last one before the next request.
	until time.Time
}

type owedReply struct {
	shape shape
	// forget is when no reply is expected any more.
	forget time.Time
}

// latest is the least time after which a reply to a request is no longer expected.
const latest = 10 * time.Second

// add records a request that got no reply until a time. The timeout is the longest of the unit.
func (u *Unanswered) add(unit byte, s shape, begin, end time.Time, timeout time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.units == nil {
		u.units = map[byte]*owed{}
	}
	o := u.units[unit]
	if o == nil {
		o = &owed{}
		u.units[unit] = o
	}
	o.replies = append(o.replies, owedReply{s, end.Add(max(latest, 3*timeout))})
	o.until = end.Add(max(timeout, end.Sub(begin)))
}

// of returns the shapes of the replies that a unit owes, and how long to wait for them before the
// next request.
func (u *Unanswered) of(unit byte, now time.Time) ([]shape, time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	o := u.units[unit]
	if o == nil {
		return nil, time.Time{}
	}
	o.replies = slices.DeleteFunc(o.replies, func(r owedReply) bool { return !now.Before(r.forget) })
	var shapes []shape
	for _, r := range o.replies {
		shapes = append(shapes, r.shape)
	}
	return shapes, o.until
}

// clear records that a unit owes nothing.
func (u *Unanswered) clear(unit byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.units, unit)
}
