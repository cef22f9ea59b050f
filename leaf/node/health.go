package node

import (
	"fmt"
	"sync"
	"time"
)

const (
	// failuresInARow is the number of short runs in a row after which a kubelet counts as failing:
	// one that is killed once does not.
	failuresInARow = 2
	// maxStable is the length of a run that is never too short.
	maxStable = 10 * time.Minute
	// silence is how long a running kubelet may not have renewed its node's lease, which it does
	// every 10 s.
	silence = time.Minute
)

// health judges the kubelet by its runs. It reads no clock and is safe for concurrent use.
type health struct {
	mu      sync.Mutex
	exits   uint64
	started time.Time
	log     *reasonWriter
	// short counts the runs in a row that were too short, lastRun is the length of the last one,
	// reason is why it ended.
	short   int
	lastRun time.Duration
	reason  string
}

func (h *health) start(now time.Time, log *reasonWriter) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.started, h.log = now, log
}

// exit records the end of a run. It returns the time that the kubelet ran, and why it ended.
func (h *health) exit(now time.Time, err error) (ran time.Duration, reason string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.exits++
	reason = err.Error()
	if !h.started.IsZero() {
		ran = now.Sub(h.started)
		if said := h.log.last(); said != "" {
			reason += ": " + said
		}
	}
	if ran >= h.stable() {
		h.short = 0
	}
	h.short++
	h.lastRun, h.reason, h.started, h.log = ran, reason, time.Time{}, nil
	return ran, reason
}

// stable returns how long a kubelet must run to count as recovered: longer than it took the last
// time to fail, and maxStable at most. h.mu is held.
func (h *health) stable() time.Duration { return min(max(stableAfter, 2*h.lastRun), maxStable) }

// problem returns what is wrong with the kubelet, empty if nothing is. renewed is when it last
// renewed the lease of its node.
func (h *health) problem(now, renewed time.Time) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	running := !h.started.IsZero()
	switch {
	case h.short >= failuresInARow && (!running || now.Sub(h.started) < h.stable()):
		return "the kubelet exits again and again, the last time with " + h.reason
	case running && now.Sub(h.started) >= silence && now.Sub(renewed) >= silence:
		why := h.log.lastError()
		if why == "" {
			why = "its log has no error"
		}
		return fmt.Sprintf("the kubelet runs but does not renew the lease of its node: %s", why)
	}
	return ""
}

func (h *health) exited() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.exits
}
