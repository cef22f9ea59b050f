package tunnel

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

const (
	// receiveWindow bounds the bytes that wait for a reader.
	receiveWindow = 512 << 10
	// maxWindow bounds the window that the other end asks for.
	maxWindow = maxInFlight
	// ackDelay is how long an acknowledgement waits for others, unless the sender waits for it.
	ackDelay = 50 * time.Millisecond
)

var (
	// ErrSilent ends a session whose other end has not answered for silence.
	ErrSilent = errors.New("the link to the site was lost: no answer")
	// ErrNotConnected ends a session with a site that is not connected to the hub.
	ErrNotConnected = errors.New("the site is not connected")
	// ErrReset ends a session that the other end has given up.
	ErrReset = errors.New("ended by the other end")
	// ErrLost ends a session of which a message was lost, as in a short outage of the link.
	ErrLost = errors.New("the link to the site was interrupted: a message was lost")
	// errClosedByPeer is what a write gets when the other end reads no more.
	errClosedByPeer = errors.New("closed by the other end")
)

// Conn is one end of a session. Its methods are safe for concurrent use.
type Conn struct {
	// publish sends a frame to the other end.
	publish func(frame) error
	line    *line
	// removed is called once, when nobody waits for frames of the session any longer.
	removed func()
	remote  addr
	// ended is closed when err is set, peerClosed when the other end reads no more.
	ended, peerClosed chan struct{}

	mu  sync.Mutex // guards err, and what is counted below
	err error
	in  inbound
	out outbound
}

// inbound is what a session receives.
type inbound struct {
	reading  sync.Mutex // one Read at a time
	readable chan struct{}
	deadline *deadline

	buffer bytes.Buffer
	// received counts the bytes that arrived, consumed those that were read; acked are those of the
	// last acknowledgement.
	received, consumed, ackedReceived, ackedConsumed uint64
	// finished is set when the other end has sent everything.
	finished bool
	ackTimer *time.Timer
}

// outbound is what a session sends.
type outbound struct {
	writing  sync.Mutex // one Write at a time
	writable chan struct{}
	deadline *deadline

	// sent counts the bytes that were sent, arrived and taken those that the other end has
	// received and read, window is how many it lets wait for its reader.
	sent, arrived, taken, window uint64
	// finished is set when everything was sent.
	finished bool
	urgent   []measure
}

// measure is a message whose arrival tells how fast the line is.
type measure struct {
	offset   uint64
	inFlight int
	at       time.Time
}

// addr is the address of one end, for messages.
type addr string

func (addr) Network() string  { return "tunnel" }
func (a addr) String() string { return string(a) }

func newConn(remote string, l *line, window uint64, publish func(frame) error, removed func()) *Conn {
	return &Conn{
		publish: publish, line: l, removed: removed, remote: addr(remote),
		ended: make(chan struct{}), peerClosed: make(chan struct{}),
		in:  inbound{readable: make(chan struct{}, 1), deadline: newDeadline()},
		out: outbound{writable: make(chan struct{}, 1), deadline: newDeadline(), window: min(window, maxWindow)},
	}
}

// Read implements net.Conn. Bytes that have arrived are read before an error is returned.
func (c *Conn) Read(p []byte) (int, error) {
	c.in.reading.Lock()
	defer c.in.reading.Unlock()
	for {
		c.mu.Lock()
		n, err := c.in.take(p, c.err)
		if c.err == nil && c.in.consumed-c.in.ackedConsumed >= receiveWindow/4 {
			c.ack()
		}
		c.mu.Unlock()
		if n > 0 || err != nil || len(p) == 0 {
			return n, err
		}
		select {
		case <-c.in.readable:
		case <-c.ended:
		case <-c.in.deadline.wait():
			return 0, os.ErrDeadlineExceeded
		}
	}
}

// take returns bytes that have arrived, and nothing if the reader has to wait. ended is why the
// session has ended.
func (in *inbound) take(p []byte, ended error) (int, error) {
	if in.buffer.Len() == 0 {
		if in.finished && !errors.Is(ended, net.ErrClosed) {
			return 0, io.EOF
		}
		return 0, ended
	}
	n, err := in.buffer.Read(p)
	in.consumed += uint64(n)
	if in.buffer.Len() == 0 && in.buffer.Cap() > maxChunk {
		in.buffer = bytes.Buffer{}
	}
	return n, err
}

// ack sends an acknowledgement of everything. The caller holds mu.
func (c *Conn) ack() {
	in := &c.in
	if in.ackTimer != nil {
		in.ackTimer.Stop()
		in.ackTimer = nil
	}
	if in.ackedReceived == in.received && in.ackedConsumed == in.consumed {
		return
	}
	in.ackedReceived, in.ackedConsumed = in.received, in.consumed
	if err := c.publish(frame{kind: kindAck, offset: in.received, bytes: in.consumed}); err != nil {
		c.end(fmt.Errorf("acknowledge: %w", err))
	}
}

// Write implements net.Conn. It returns when the last byte is on its way.
func (c *Conn) Write(p []byte) (int, error) {
	c.out.writing.Lock()
	defer c.out.writing.Unlock()
	done := 0
	for done < len(p) {
		n, err := c.writeSome(p[done:])
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

func (c *Conn) writeSome(p []byte) (int, error) {
	n, err := c.awaitWindow(len(p))
	if err != nil {
		return 0, err
	}
	inFlight, urgent, ok := c.line.acquire(n, c.ended, c.out.deadline.wait())
	if !ok {
		if err := c.endedBy(); err != nil {
			return 0, err
		}
		return 0, os.ErrDeadlineExceeded
	}
	f := frame{kind: kindData, rest: p[:n]}
	c.mu.Lock()
	if c.err != nil {
		defer c.mu.Unlock()
		c.line.release(n)
		return 0, c.err
	}
	f.offset = c.out.sent
	c.out.sent += uint64(n)
	if urgent {
		f.kind = kindUrgent
		c.out.urgent = append(c.out.urgent, measure{offset: c.out.sent, inFlight: inFlight, at: time.Now()})
	}
	c.mu.Unlock()
	if err := c.publish(f); err != nil {
		err = fmt.Errorf("send: %w", err)
		c.fail(err)
		return 0, err
	}
	return n, nil
}

// awaitWindow waits until the other end lets at least one of n bytes in, and returns how many may
// be sent in one message.
func (c *Conn) awaitWindow(n int) (int, error) {
	for {
		c.mu.Lock()
		err, room := c.err, c.out.window-(c.out.sent-c.out.taken)
		if err == nil && c.out.finished {
			err = net.ErrClosed
		}
		c.mu.Unlock()
		if err != nil {
			return 0, err
		}
		select {
		case <-c.peerClosed:
			return 0, errClosedByPeer
		default:
		}
		if room > 0 {
			return min(n, int(room), c.line.chunk()), nil //nolint:gosec // room is at most the window
		}
		select {
		case <-c.out.writable:
		case <-c.ended:
		case <-c.peerClosed:
		case <-c.out.deadline.wait():
			return 0, os.ErrDeadlineExceeded
		}
	}
}

// CloseWrite tells the other end that all has been sent. Reads go on.
func (c *Conn) CloseWrite() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil || c.out.finished {
		return c.err
	}
	c.out.finished = true
	return c.publish(frame{kind: kindFinish, offset: c.out.sent})
}

// Close ends the session in both directions. What was written is still delivered.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		c.err = net.ErrClosed
		return nil
	}
	c.in.buffer = bytes.Buffer{}
	err := c.publish(frame{kind: kindClose, offset: c.out.sent})
	c.end(net.ErrClosed)
	return err
}

// Reset ends the session in both directions and tells the other end why.
func (c *Conn) Reset(reason error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	_ = c.publish(frame{kind: kindReset, rest: []byte(reason.Error())}) // the other end notices the silence
	c.end(reason)
}

// fail ends the session because of an error on this side of the line.
func (c *Conn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.end(err)
}

// end ends the session. The caller holds mu.
func (c *Conn) end(err error) {
	if c.err != nil {
		return
	}
	c.err = err
	if c.in.ackTimer != nil {
		c.in.ackTimer.Stop()
	}
	close(c.ended)
	c.line.release(int(c.out.sent - c.out.arrived)) //nolint:gosec // bounded by the window
	c.removed()
}

func (c *Conn) endedBy() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return addr("tunnel") }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	c.in.deadline.set(t)
	c.out.deadline.set(t)
	return nil
}

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.in.deadline.set(t)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.out.deadline.set(t)
	return nil
}
