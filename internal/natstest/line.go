package natstest

import (
	"io"
	"net"
	"sync"
	"testing"
)

// Line forwards TCP connections to a target until it is cut.
type Line struct {
	target   string
	listener net.Listener

	mu    sync.Mutex
	up    bool
	conns map[net.Conn]struct{}
	wait  sync.WaitGroup
}

// NewLine returns a line to target ("host:port") that is up.
func NewLine(t testing.TB, target string) *Line {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	line := &Line{target: target, listener: l, up: true, conns: map[net.Conn]struct{}{}}
	line.wait.Go(line.accept)
	t.Cleanup(func() {
		l.Close()
		line.Cut()
		line.wait.Wait()
	})
	return line
}

// Addr is where the near end connects.
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

// Heal lets connections through again.
func (l *Line) Heal() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.up = true
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
		l.wait.Go(func() { l.copy(near, far) })
		l.wait.Go(func() { l.copy(far, near) })
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

func (l *Line) copy(dst, src net.Conn) {
	io.Copy(dst, src) //nolint:errcheck // either end may close first; both are closed below
	dst.Close()
	src.Close()
	l.mu.Lock()
	delete(l.conns, dst)
	delete(l.conns, src)
	l.mu.Unlock()
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
