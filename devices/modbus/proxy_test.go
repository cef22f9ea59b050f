package modbus

import (
	"encoding/binary"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"
)

// proxy stands between driver and slave and does to answers what bad networks and
// gateways do. A fault gets each answer with the unit that was asked, and sends what
// it wants to the client.
type proxy struct {
	addr string

	mu       sync.Mutex
	fault    func(unit byte, answer []byte, send func([]byte))
	drop     func(unit byte) bool // requests that never arrive
	conns    map[net.Conn]bool
	accepted int
	single   bool // refuse a second connection
	refuse   bool
	opened   time.Time // the newest connection
}

func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{addr: l.Addr().String(), conns: map[net.Conn]bool{}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if !p.admit(c) {
				c.Close()
				continue
			}
			wg.Go(func() { p.serve(c, to); p.forget(c) })
		}
	})
	t.Cleanup(func() { l.Close(); p.cut(); wg.Wait() })
	return p
}

func (p *proxy) admit(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.accepted++
	if p.refuse || (p.single && len(p.conns) > 0) {
		return false
	}
	p.conns[c], p.opened = true, time.Now()
	return true
}

func (p *proxy) forget(c net.Conn) {
	c.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

// cut closes every connection, as a restart of the gateway does.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
}

func (p *proxy) set(change func(*proxy)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(p)
}

func (p *proxy) connections() (open, accepted int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns), p.accepted
}

func (p *proxy) serve(c net.Conn, to string) {
	s, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer s.Close()
	var mu sync.Mutex
	send := func(b []byte) {
		mu.Lock()
		defer mu.Unlock()
		_, _ = c.Write(b)
	}
	for {
		req, err := readFrame(c)
		if err != nil {
			return
		}
		p.mu.Lock()
		drop, fault := p.drop, p.fault
		p.mu.Unlock()
		if drop != nil && drop(req[6]) {
			continue
		}
		if _, err := s.Write(req); err != nil {
			return
		}
		answer, err := readFrame(s)
		if err != nil {
			return
		}
		if fault == nil {
			send(answer)
			continue
		}
		fault(req[6], answer, send)
	}
}

func readFrame(r io.Reader) ([]byte, error) {
	h := make([]byte, 6)
	if _, err := io.ReadFull(r, h); err != nil {
		return nil, err
	}
	f := slices.Concat(h, make([]byte, binary.BigEndian.Uint16(h[4:])))
	_, err := io.ReadFull(r, f[6:])
	return f, err
}
