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
	prioWrite priority = iota
	prioOverdue
	prioPoll
)

// writesInRow is how many writes go before a waiting poll at most, so that polls
// keep a share of the link.
const writesInRow = 4

// job is something to do on a link without interruption.
type job struct {
	ctx      context.Context
	priority priority
	due      time.Time
	unit     byte
	settings *settings
	do       func(*unit) error
	// finish tells that the caller wants the result even when its context ends while
	// the job is done.
	finish bool

	done  chan error
	order uint64
	taken atomic.Bool
}

// queue holds the jobs of a link, writes apart from the rest. It is safe for
// concurrent use.
type queue struct {
	mu     sync.Mutex
	writes jobs
	polls  jobs
	row    int
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
	if j.priority == prioWrite {
		heap.Push(&q.writes, j)
	} else {
		heap.Push(&q.polls, j)
	}
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return true
}

// take waits for the next job; nil means that ctx ended.
func (q *queue) take(ctx context.Context) *job {
	for {
		if j := q.next(); j != nil {
			return j
		}
		select {
		case <-ctx.Done():
			return nil
		case <-q.wake:
		}
	}
}

func (q *queue) next() *job {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.writes) > 0 && (q.row < writesInRow || len(q.polls) == 0) {
		q.row++
		return heap.Pop(&q.writes).(*job)
	}
	q.row = 0
	if len(q.polls) > 0 {
		return heap.Pop(&q.polls).(*job)
	}
	return nil
}

// close refuses further jobs and returns those that wait.
func (q *queue) close() []*job {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	rest := append(append([]*job(nil), q.writes...), q.polls...)
	q.writes, q.polls = nil, nil
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
