package tunnel

import (
	"errors"
	"fmt"
	"time"
)

// handle takes a frame of the session from the other end. It never waits for a reader.
func (c *Conn) handle(f frame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	switch f.kind {
	case kindData, kindUrgent:
		c.receive(f)
	case kindFinish, kindClose:
		if f.offset != c.in.received {
			c.lost()
			return
		}
		c.in.finished = true
		if f.kind == kindClose {
			select {
			case <-c.peerClosed:
			default:
				close(c.peerClosed)
			}
		}
		wake(c.in.readable)
	case kindAck:
		c.acknowledged(f)
	case kindReset:
		c.end(fmt.Errorf("%w: %s", ErrReset, f.rest))
	}
}

// receive takes data. The caller holds mu.
func (c *Conn) receive(f frame) {
	n := uint64(len(f.rest))
	switch {
	case f.offset != c.in.received || c.in.finished:
		c.lost()
		return
	case c.in.received+n-c.in.consumed > receiveWindow:
		c.end(errors.New("the other end sent more than it may"))
		return
	}
	c.in.received += n
	c.in.buffer.Write(f.rest)
	wake(c.in.readable)
	switch {
	case f.kind == kindUrgent:
		c.ack()
	case c.in.ackTimer == nil:
		c.in.ackTimer = time.AfterFunc(ackDelay, func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.err == nil {
				c.ack()
			}
		})
	}
}

// acknowledged takes note of what has arrived at the other end. The caller holds mu.
func (c *Conn) acknowledged(f frame) {
	if f.offset < c.out.arrived || f.offset > c.out.sent || f.bytes > f.offset || f.bytes < c.out.taken {
		c.end(fmt.Errorf("acknowledgement of %d and %d bytes where %d were sent: %w", f.offset, f.bytes, c.out.sent, errFrame))
		return
	}
	arrived := f.offset - c.out.arrived
	c.out.arrived, c.out.taken = f.offset, f.bytes
	now := time.Now()
	for len(c.out.urgent) > 0 && c.out.urgent[0].offset <= f.offset {
		c.line.arrived(c.out.urgent[0].inFlight, now.Sub(c.out.urgent[0].at))
		c.out.urgent = c.out.urgent[1:]
	}
	c.line.release(int(arrived)) //nolint:gosec // bounded by the window
	wake(c.out.writable)
}

// lost ends a session of which a message did not arrive. The caller holds mu.
func (c *Conn) lost() {
	_ = c.publish(frame{kind: kindReset, rest: []byte(ErrLost.Error())}) // the other end notices the silence
	c.end(ErrLost)
}

// wake wakes the one that waits, or the next one.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
