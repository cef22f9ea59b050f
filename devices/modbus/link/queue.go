package link

import (
	"container/heap"
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/petiole-io/petiole/devices/modbus/codec"
)

// Priority orders the jobs of a link.
type Priority uint8

// The priorities, highest first. An overdue poll is late by more than its period. A link
// changes the priority of polls of a silent unit to Probe.
const (
	Command Priority = iota
	Write
	Overdue
	Poll
	Probe
)

const (
	// DefaultPollShare is the percentage of transactions that polls get while writes wait
	// too.
	DefaultPollShare = 20
	// pollsPerProbe is the most polls that go before a waiting probe, so that a silent unit
	// is found again even on a link that is never idle.
	pollsPerProbe = 32
)

// Job is a task for a link: a function that has the link for itself, or one read, which
// may be in flight together with other reads.
type Job struct {
	Ctx      context.Context //nolint:containedctx // ends when the caller no longer wants the job
	Priority Priority
	Due      time.Time
	Unit     byte
	Settings *Settings
	// Either do or read is set.
	Do   func(*Unit) error
	Read *ReadRequest
	// finish is called once with the job's result. It must not block.
	Finish func(error)

	order   uint64
	claimed atomic.Bool
}

// ReadRequest is a read of one range of a table. Data and at may be read after the job's
// end.
type ReadRequest struct {
	Table        codec.Table
	Start, Count int
	Data         []byte
	At           time.Time
}

// queue holds the jobs of a link in three rows: writes, polls and probes. It is safe for
// concurrent use by many producers and one consumer.
type queue struct {
	mu          sync.Mutex
	writes      jobs
	polls       jobs
	probes      jobs
	writesTaken int // writes taken since the last poll
	pollsTaken  int // polls taken since the last probe
	count       uint64
	closed      bool
	wake        chan struct{}
}

func newQueue() *queue { return &queue{wake: make(chan struct{}, 1)} }

// put adds a job. It returns false if the queue is closed.
func (q *queue) put(j *Job) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.count++
	j.order = q.count
	heap.Push(q.rowOf(j.Priority), j)
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return true
}

func (q *queue) rowOf(p Priority) *jobs {
	switch p {
	case Command, Write:
		return &q.writes
	case Probe:
		return &q.probes
	default:
		return &q.polls
	}
}

// pop waits for the next job. It returns nil if ctx ends first.
func (q *queue) pop(ctx context.Context) *Job {
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

// next removes the job whose turn it is and returns it. It returns nil if none waits, or
// if that one does not suit. A nil function accepts every job.
func (q *queue) next(suits func(*Job) bool) *Job {
	q.mu.Lock()
	defer q.mu.Unlock()
	row := q.turn()
	if row == nil || (suits != nil && !suits((*row)[0])) {
		return nil
	}
	switch row {
	case &q.writes:
		q.writesTaken++
	case &q.polls:
		q.writesTaken = 0
		q.pollsTaken++
	default:
		q.pollsTaken = 0
	}
	return heap.Pop(row).(*Job)
}

// turn returns the row whose turn it is, or nil if no job waits.
func (q *queue) turn() *jobs {
	switch {
	case len(q.writes) > 0 && (len(q.polls) == 0 || q.writesTaken < writesPerPoll(q.polls[0].Settings)):
		return &q.writes
	case len(q.polls) > 0 && (len(q.probes) == 0 || q.pollsTaken < pollsPerProbe):
		return &q.polls
	case len(q.probes) > 0:
		return &q.probes
	default:
		return nil
	}
}

// writesPerPoll returns the most writes that go before a waiting poll.
func writesPerPoll(s *Settings) int {
	share := DefaultPollShare
	if s != nil && s.PollShare > 0 {
		share = s.PollShare
	}
	return max((100-share)/share, 1)
}

// close makes put fail from now on and returns the jobs that wait.
func (q *queue) close() []*Job {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	rest := append(append(append([]*Job(nil), q.writes...), q.polls...), q.probes...)
	q.writes, q.polls, q.probes = nil, nil, nil
	return rest
}

// jobs is a heap by priority, then by due time, then by arrival.
type jobs []*Job

func (j jobs) Len() int { return len(j) }
func (j jobs) Less(a, b int) bool {
	if j[a].Priority != j[b].Priority {
		return j[a].Priority < j[b].Priority
	}
	if !j[a].Due.Equal(j[b].Due) {
		return j[a].Due.Before(j[b].Due)
	}
	return j[a].order < j[b].order
}
func (j jobs) Swap(a, b int) { j[a], j[b] = j[b], j[a] }
func (j *jobs) Push(x any)   { *j = append(*j, x.(*Job)) }
func (j *jobs) Pop() any {
	old := *j
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*j = old[:len(old)-1]
	return last
}
