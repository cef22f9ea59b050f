package tunnel

import (
	"sync"
	"time"

	"github.com/petiole-io/petiole/streams/window"
)

const (
	// maxChunk bounds the bytes of one message, minChunk those of one on a slow line.
	maxChunk, minChunk = 32 << 10, 512
	// maxInFlight bounds the bytes in flight in one direction of a line, lineTarget how long they
	// may take.
	maxInFlight = 8 << 20
	lineTarget  = time.Second
)

// line bounds the bytes that all sessions with one site have in flight in one direction. Sessions
// that wait take turns. It is safe for concurrent use.
type line struct {
	mu       sync.Mutex
	window   window.Window
	inFlight int
	waiting  []*waiter
}

type waiter struct {
	bytes int
	ready chan struct{}
}

func newLine() *line { return &line{window: window.New(maxInFlight, lineTarget)} }

// chunk returns how many bytes a message may have. Several fit into the window, so that sessions
// take turns.
func (l *line) chunk() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return min(maxChunk, max(minChunk, l.window.Bytes()/4))
}

// acquire takes room for a number of bytes; it waits for its turn until one of the channels is
// closed, and then returns false. It returns how many bytes are in flight now, and whether others
// may soon have to wait for them.
func (l *line) acquire(bytes int, ended, deadline <-chan struct{}) (inFlight int, urgent, ok bool) {
	l.mu.Lock()
	if len(l.waiting) == 0 && l.fits(bytes) {
		defer l.mu.Unlock()
		l.inFlight += bytes
		return l.inFlight, l.inFlight > l.window.Bytes()/2, true
	}
	w := &waiter{bytes: bytes, ready: make(chan struct{})}
	l.waiting = append(l.waiting, w)
	l.mu.Unlock()
	select {
	case <-w.ready:
		ok = true
	case <-ended:
	case <-deadline:
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if ok {
		return l.inFlight, true, true
	}
	for i, other := range l.waiting {
		if other == w {
			l.waiting = append(l.waiting[:i], l.waiting[i+1:]...)
			l.admit()
			return 0, false, false
		}
	}
	l.inFlight -= bytes // admitted meanwhile
	l.admit()
	return 0, false, false
}

// release returns the room of bytes that have arrived or are lost.
func (l *line) release(bytes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.inFlight -= bytes
	l.admit()
}

// arrived takes note that bytes in flight arrived within a time.
func (l *line) arrived(bytes int, took time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.window.Record(bytes, took)
	l.admit()
}

// fits reports whether bytes may be sent now. A message larger than the window is sent alone.
func (l *line) fits(bytes int) bool {
	return l.inFlight == 0 || l.inFlight+bytes <= l.window.Bytes()
}

// admit lets those in whose turn it is.
func (l *line) admit() {
	for len(l.waiting) > 0 && l.fits(l.waiting[0].bytes) {
		l.inFlight += l.waiting[0].bytes
		close(l.waiting[0].ready)
		l.waiting = l.waiting[1:]
	}
}
