package tunnel

import (
	"sync"
	"time"
)

// deadline is a time after which reads or writes fail, as net.Pipe has it.
type deadline struct {
	mu     sync.Mutex
	timer  *time.Timer
	passed chan struct{}
}

func newDeadline() *deadline { return &deadline{passed: make(chan struct{})} }

// set sets the time, or removes it if t is zero.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		<-d.passed // the timer has fired: wait until it has closed the channel
	}
	d.timer = nil
	closed := false
	select {
	case <-d.passed:
		closed = true
	default:
	}
	wait := time.Until(t)
	switch {
	case t.IsZero() || wait > 0:
		if closed {
			d.passed = make(chan struct{})
		}
		if !t.IsZero() {
			passed := d.passed
			d.timer = time.AfterFunc(wait, func() { close(passed) })
		}
	case !closed:
		close(d.passed)
	}
}

// wait returns a channel that is closed when the time has passed.
func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.passed
}
