package modbus

import (
	"container/heap"
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// priority orders what waits for a link.
type priority uint8

const (
	prioCommand priority = iota
	prioWrite
	prioOverdue
	prioPoll
	prioProbe
)

const (
	// defaultPollShare is the part of the transactions, in percent, that waiting polls
	// get while writes wait too.
	defaultPollShare = 20
	// pollsPerProbe is how many polls go before a waiting probe at most, so that a
	// silent unit is found again also on a link that is never idle.
	pollsPerProbe = 32
)

// job is something to do on a link: an exclusive part of its time, or one read,
// which may share the link with other reads in flight.
type job struct {
	ctx      context.Context //nolint:containedctx // ends when nobody wants the job any longer
	priority priority
	due      time.Time
	unit     byte
	settings *settings
	// Either do or ask is set.
	do  func(*unit) error
	ask *ask
	// end gets the job's end, once. It does not block.
	end func(error)

	order uint64
	taken atomic.Bool
}

// ask is a read that needs nothing but one request. Its answer is read after the
// job's end.
type ask struct {
	table        table
	start, count int
	data         []byte
	at           time.Time
}

// queue holds the jobs of a link in three rows: writes, polls and probes. It is safe
// for concurrent use by many that put and one that takes.
type queue struct {
	mu     sync.Mutex
	writes jobs
	polls  jobs
	probes jobs
	row    int // writes taken since the last poll
	polled int // polls taken since the last probe
	count  uint64
	closed bool
	wake   chan struct{}
}

func newQueue() *queue { return &queue{wake: make(chan struct{}, 1)} }

// put adds a job; false means that the queue is closed.
func (q *queue) put(j *job) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.count++
	j.order = q.count
	heap.Push(q.rowOf(j.priority), j)
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return true
}

func (q *queue) rowOf(p priority) *jobs {
	switch p {
	case prioCommand, prioWrite:
		return &q.writes
	case prioProbe:
		return &q.probes
	default:
		return &q.polls
	}
}

// take waits for the next job; nil means that ctx ended.
func (q *queue) take(ctx context.Context) *job {
	for {
		if j := q.next(nil); j != nil {
			return j
		}
		select {
		case <-ctx.Done():
			return nil
		case <-q.wake:
		}
	}
}

// next takes the job whose turn it is, if there is one and it suits.
func (q *queue) next(suits func(*job) bool) *job {
	q.mu.Lock()
	defer q.mu.Unlock()
	row := q.turn()
	if row == nil || (suits != nil && !suits((*row)[0])) {
		return nil
	}
	switch row {
	case &q.writes:
		q.row++
	case &q.polls:
		q.row = 0
		q.polled++
	default:
		q.polled = 0
	}
	return heap.Pop(row).(*job)
}

// turn is the row whose turn it is, nil when nothing waits.
func (q *queue) turn() *jobs {
	switch {
	case len(q.writes) > 0 && (len(q.polls) == 0 || q.row < writesPerPoll(q.polls[0].settings)):
		return &q.writes
	case len(q.polls) > 0 && (len(q.probes) == 0 || q.polled < pollsPerProbe):
		return &q.polls
	case len(q.probes) > 0:
		return &q.probes
	default:
		return nil
	}
}

// writesPerPoll is how many writes go before a waiting poll at most.
func writesPerPoll(s *settings) int {
	share := defaultPollShare
	if s != nil && s.pollShare > 0 {
		share = s.pollShare
	}
	return max((100-share)/share, 1)
}

// close refuses further jobs and returns those that wait.
func (q *queue) close() []*job {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	rest := append(append(append([]*job(nil), q.writes...), q.polls...), q.probes...)
	q.writes, q.polls, q.probes = nil, nil, nil
	return rest
}

// jobs is a heap by priority, then by when they were due, then by arrival.
type jobs []*job

func (j jobs) Len() int { return len(j) }
func (j jobs) Less(a, b int) bool {
	if j[a].priority != j[b].priority {
		return j[a].priority < j[b].priority
	}
	if !j[a].due.Equal(j[b].due) {
		return j[a].due.Before(j[b].due)
	}
	return j[a].order < j[b].order
}
func (j jobs) Swap(a, b int) { j[a], j[b] = j[b], j[a] }
func (j *jobs) Push(x any)   { *j = append(*j, x.(*job)) }
func (j *jobs) Pop() any {
	old := *j
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*j = old[:len(old)-1]
	return last
}
