package natstest

import (
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

// Line forwards TCP connections to a target, with the faults of a bad link. A new one
// is up and without limits. Its methods are safe for concurrent use.
type Line struct {
	target   string
	listener net.Listener
	end      chan struct{}

	mu    sync.Mutex
	up    bool
	lost  [2]bool       // by direction: bytes are discarded
	rate  int           // bytes per second and direction, 0 for no limit
	delay time.Duration // of each direction
	loss  float64       // the share of segments that are sent again
	moved [2]int64      // by direction: bytes that arrived
	conns map[net.Conn]struct{}
	wait  sync.WaitGroup
}

// Direction is one of the two directions of a line.
type Direction int

// Upward is from the near end to the target, Downward the other way.
const (
	Upward Direction = iota
	Downward
)

// lateness is what a busy machine may wake a Line too late by without making it slower: it catches up.
const lateness = 100 * time.Millisecond

// NewLine returns a line to target ("host:port") that is up.
func NewLine(t testing.TB, target string) *Line {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return NewLineAt(t, l, target)
}

// NewLineAt is NewLine with its near end at a listener, which it closes.
func NewLineAt(t testing.TB, l net.Listener, target string) *Line {
	t.Helper()
	line := &Line{target: target, listener: l, up: true, conns: map[net.Conn]struct{}{}, end: make(chan struct{})}
	line.wait.Go(line.accept)
	t.Cleanup(func() {
		l.Close()
		close(line.end)
		line.Cut()
		line.wait.Wait()
	})
	return line
}

// Addr returns the address that the near end connects to.
func (l *Line) Addr() string { return l.listener.Addr().String() }

// Cut closes every connection and refuses new ones.
func (l *Line) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.up = false
	for c := range l.conns {
		c.Close()
	}
}

// Heal ends every fault: connections are let through, nothing is discarded, and there
// is no limit. A connection that lost bytes is broken for good; its ends find out.
func (l *Line) Heal() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.up, l.lost, l.rate = true, [2]bool{}, 0
}

// Restore ends a cut and leaves other faults as they are.
func (l *Line) Restore() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.up = true
}

// Swallow makes the directions silent: bytes are accepted and discarded, connections stay
// open and new ones are accepted. Neither end sees an error.
func (l *Line) Swallow(directions ...Direction) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range directions {
		l.lost[d] = true
	}
}

// Limit bounds each direction of each connection to so many bytes per second, 0 for no
// limit.
func (l *Line) Limit(bytesPerSecond int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rate = bytesPerSecond
}

// Delay makes each byte arrive so much later, and loses a share of the segments of 1460 bytes: what
// follows one waits until it was sent again, a round trip and at least 200 ms later.
func (l *Line) Delay(d time.Duration, loss float64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.delay, l.loss = d, loss
}

// Moved returns the number of bytes that have arrived at the end of a direction.
func (l *Line) Moved(d Direction) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.moved[d]
}

func (l *Line) limit() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rate
}

func (l *Line) accept() {
	for {
		near, err := l.listener.Accept()
		if err != nil {
			return // closed by the test's end
		}
		far, err := net.Dial("tcp", l.target)
		if err != nil || !l.add(near, far) {
			near.Close()
			if far != nil {
				far.Close()
			}
			continue
		}
		l.wait.Go(func() { l.copy(far, near, Upward) })
		l.wait.Go(func() { l.copy(near, far, Downward) })
	}
}

func (l *Line) add(conns ...net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.up {
		return false
	}
	for _, c := range conns {
		l.conns[c] = struct{}{}
	}
	return true
}

// chunk is what arrives at a time.
type chunk struct {
	data []byte
	due  time.Time
}

// deliver writes what is due until the channel is closed, or dst is.
func (l *Line) deliver(dst net.Conn, d Direction, chunks <-chan chunk) {
	failed := false
	for c := range chunks {
		if failed {
			continue
		}
		select {
		case <-l.end:
		case <-time.After(time.Until(c.due)):
		}
		if _, err := dst.Write(c.data); err != nil {
			failed = true
			continue
		}
		l.mu.Lock()
		l.moved[d] += int64(len(c.data))
		l.mu.Unlock()
	}
	dst.Close()
}

// arrival returns when what was sent until free arrives, and when the line is free again after what
// was lost.
func (l *Line) arrival(free time.Time, bytes int) (due, next time.Time) {
	l.mu.Lock()
	delay, loss := l.delay, l.loss
	l.mu.Unlock()
	if loss > 0 && rand.Float64() < loss*float64(bytes)/1460 {
		free = free.Add(max(2*delay, 200*time.Millisecond))
	}
	return free.Add(delay), free
}

// copy forwards until either end closes. A direction that lost bytes stays lost for
// this connection, as the rest of the stream would make no sense. With a limit it takes
// little at a time, so that what comes after it waits in the sockets' buffers: the queue of
// a slow line.
func (l *Line) copy(dst, src net.Conn, d Direction) {
	buf := make([]byte, 16<<10)
	chunks := make(chan chunk, 4096)
	var delivering sync.WaitGroup
	delivering.Go(func() { l.deliver(dst, d, chunks) })
	broken, free := false, time.Now()
	for {
		take := len(buf)
		if rate := l.limit(); rate > 0 {
			take = min(take, max(rate/20, 64))
		}
		n, err := src.Read(buf[:take])
		if err != nil {
			break
		}
		l.mu.Lock()
		broken = broken || l.lost[d]
		l.mu.Unlock()
		if broken {
			continue
		}
		if rate := l.limit(); rate > 0 {
			if earliest := time.Now().Add(-lateness); free.Before(earliest) {
				free = earliest
			}
			free = free.Add(time.Duration(n) * time.Second / time.Duration(rate))
			select {
			case <-l.end:
			case <-time.After(time.Until(free)):
			}
		}
		due, next := l.arrival(time.Now(), n)
		if next.After(free) {
			free = next
		}
		chunks <- chunk{append([]byte(nil), buf[:n]...), due}
	}
	close(chunks)
	src.Close()
	delivering.Wait()
	l.mu.Lock()
	delete(l.conns, dst)
	delete(l.conns, src)
	l.mu.Unlock()
}
