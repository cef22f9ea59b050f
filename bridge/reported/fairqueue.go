package reported

import (
	"sync"

	"k8s.io/client-go/util/workqueue"
)

// NewQueue returns a queue of reports that gives one site after the other its turn, and a site at
// most half of the workers. An object's reports are written in order, by one worker at a time,
// as by any other workqueue. A worker that is Done must Get again until the queue shuts down.
func NewQueue(cfg workqueue.TypedQueueConfig[Key], workers int) workqueue.TypedInterface[Key] {
	sites := newFairQueue((workers + 1) / 2)
	cfg.Queue = sites
	return &releasingQueue{workqueue.NewTypedWithConfig(cfg), sites}
}

// releasingQueue tells the fair queue when a worker is done, which a workqueue does not.
type releasingQueue struct {
	workqueue.TypedInterface[Key]
	sites *fairQueue
}

// Done implements workqueue.TypedInterface.
func (q *releasingQueue) Done(k Key) {
	q.sites.release(k.Site)
	q.TypedInterface.Done(k)
}

// fairQueue is the order of a workqueue: round-robin over the sites, first in, first out within a
// site. A site that holds its share of the workers has no turn until one is released. It is safe
// for concurrent use.
//
// A workqueue wakes one worker for each Push. None is needed for a release: the worker that was
// released takes what it has made possible.
type fairQueue struct {
	share int

	mu    sync.Mutex
	sites map[string]*siteQueue
	// turns holds the sites that have something to do and less than their share of the workers,
	// the next first.
	turns   workqueue.Queue[string]
	waiting int
}

// siteQueue holds the reports of a site that wait, and the number of workers that the site has.
type siteQueue struct {
	workqueue.Queue[Key]
	workers int
}

func newFairQueue(share int) *fairQueue {
	return &fairQueue{share: share, sites: map[string]*siteQueue{}, turns: workqueue.DefaultQueue[string]()}
}

// Touch implements workqueue.Queue. A report that is added again keeps its place.
func (*fairQueue) Touch(Key) {}

// Push implements workqueue.Queue.
func (q *fairQueue) Push(k Key) {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.sites[k.Site]
	if s == nil {
		s = &siteQueue{Queue: workqueue.DefaultQueue[Key]()}
		q.sites[k.Site] = s
	}
	s.Push(k)
	q.waiting++
	if s.Len() == 1 && s.workers < q.share {
		q.turns.Push(k.Site)
	}
}

// Len implements workqueue.Queue. It returns 0, so that workers wait, if only sites that hold
// their share of the workers have something to do.
func (q *fairQueue) Len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.turns.Len() == 0 {
		return 0
	}
	return q.waiting
}

// Pop implements workqueue.Queue.
func (q *fairQueue) Pop() Key {
	q.mu.Lock()
	defer q.mu.Unlock()
	site := q.turns.Pop()
	s := q.sites[site]
	k := s.Pop()
	q.waiting--
	if s.workers++; s.Len() > 0 && s.workers < q.share {
		q.turns.Push(site)
	}
	return k
}

// release takes a worker from a site.
func (q *fairQueue) release(site string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.sites[site]
	s.workers--
	switch {
	case s.Len() > 0 && s.workers == q.share-1:
		q.turns.Push(site)
	case s.Len() == 0 && s.workers == 0:
		delete(q.sites, site)
	}
}
