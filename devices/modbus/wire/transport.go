package wire

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"
)

// maxUnmatched is the most received bytes that may match no request.
const maxUnmatched = 4096

// minQuiet is the shortest silence that ends a late reply.
const minQuiet = 5 * time.Millisecond

// Broadcast is the unit id that addresses all units of a serial line. None replies.
const Broadcast = 0

// Transport sends requests over a connection and finds their replies: one at a time with
// Send, or several in flight with Post and Receive. It implements the transporter of
// goburrow's clients. It belongs to one goroutine.
type Transport struct {
	medium
	connection
	// Options apply to the transactions that follow.
	Options
	// Last has the times of the last transaction.
	Last Times

	// staleUntil has, for each unit that did not reply in time, until when its late reply
	// may still come. It outlives a connection: the line behind it is the same.
	staleUntil map[byte]time.Time
	// firstOpened is when the connection was opened for the first time. Until MaxTimeout later
	// replies to requests of the line's last user may come.
	firstOpened time.Time
	// maybeStale reports that the next reply may be a late one.
	maybeStale bool
}

// Options are the bounds of a transaction.
type Options struct {
	// Timeout bounds the transaction, without the time that its characters take on the
	// line. No reply comes later than MaxTimeout.
	Timeout, MaxTimeout time.Duration
	// Grace is how long to wait for the reply after one that may be a late one.
	Grace time.Duration
	// Turnaround is the time that units take to act on a broadcast.
	Turnaround time.Duration
	// Echoes reports that the adapter returns what is sent before the reply.
	Echoes bool
	// Trace logs every frame, at level debug.
	Trace bool
}

// Times are the times of a transaction. Latency is without the time that its characters take
// on the line.
type Times struct {
	Begin, End time.Time
	Latency    time.Duration
}

// New returns the transport of an endpoint. It does no I/O.
func New(e Endpoint, log *zap.Logger) *Transport {
	return &Transport{medium: newMedium(e), connection: connection{log: log}, staleUntil: map[byte]time.Time{}}
}

// Open opens the connection, which must be closed. When ctx ends the connection is closed,
// which unblocks reads and writes. It fails if ctx has ended: a serial port could be opened
// all the same, and the reply to a request would come to whoever opens it next.
//
// On a line without transaction numbers a request waits until its MaxTimeout has passed since
// the first opening, and drops what comes meanwhile: the reply to a request of another link or
// process would look like its own.
func (t *Transport) Open(ctx context.Context, timeout time.Duration) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: connect: %w", ErrLink, err)
	}
	dctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	c, err := t.dial(dctx)
	if err != nil {
		return fmt.Errorf("%w: connect: %w", ErrLink, err)
	}
	t.open(ctx, c)
	if t.firstOpened.IsZero() {
		t.firstOpened = time.Now()
	}
	return nil
}

// Close closes the connection, if it is open.
func (t *Transport) Close() {
	if t.conn == nil {
		return
	}
	t.stopWatching()
	_ = t.conn.Close() // nothing is buffered, so a failing close loses nothing
	t.conn = nil
}

// IsOpen reports whether the connection is open.
func (t *Transport) IsOpen() bool { return t.conn != nil }

// Written returns the number of requests so far of which at least one byte went out.
func (t *Transport) Written() int { return t.written }

// Frames returns the last frames that were sent and received, oldest first.
func (t *Transport) Frames() []fmt.Stringer { return t.frames.list() }

// Send runs one transaction. After any error but a timeout it closes the connection,
// because it cannot know what comes next on it.
func (t *Transport) Send(request []byte) ([]byte, error) {
	if t.conn == nil {
		return nil, ErrLink
	}
	t.received, t.traced = false, t.Trace
	before := t.written
	reply, err := t.transact(request)
	t.Last.End = time.Now()
	if err == nil {
		t.answered = true
		delete(t.staleUntil, request[0])
		return reply, nil
	}
	if errors.Is(err, ErrBroadcast) {
		return nil, err
	}
	// What was written to a connection that had been closed before reached no unit.
	if t.written > before && !t.framing.numbered() && !errors.Is(err, ErrClosed) {
		t.staleUntil[request[0]] = t.Last.End.Add(max(t.MaxTimeout, t.Last.End.Sub(t.Last.Begin)))
	}
	if !errors.Is(err, ErrTimeout) {
		t.Close()
	}
	return reply, err
}

func (t *Transport) transact(request []byte) ([]byte, error) {
	if err := t.awaitStale(request); err != nil {
		return nil, err
	}
	t.Last.Begin = time.Now()
	line := t.lineTime(request, t.Echoes)
	if err := t.write(request, t.Last.Begin.Add(t.Timeout+line)); err != nil {
		return nil, err
	}
	if !t.framing.numbered() && request[0] == Broadcast {
		return nil, t.awaitBroadcast(line)
	}
	if err := t.skipEcho(request); err != nil {
		return nil, err
	}
	reply, err := t.awaitReply(request)
	t.Last.Latency = max(time.Since(t.Last.Begin)-line, 0)
	if err == nil && t.maybeStale {
		return t.lastReply(request, reply, line)
	}
	return reply, err
}

// awaitReply receives until the reply to a request is found.
func (t *Transport) awaitReply(request []byte) ([]byte, error) {
	for {
		reply, used, err := t.framing.find(request, t.buf)
		if reply != nil {
			reply = slices.Clone(reply)
			t.consume(used)
			return reply, nil
		}
		if err != nil {
			return nil, err
		}
		t.consume(used)
		if len(t.buf) > maxUnmatched {
			return nil, fmt.Errorf("%w: received %d bytes without a reply to the request", ErrGarbled, len(t.buf))
		}
		if err := t.receive(); err != nil {
			return nil, err
		}
	}
}

// skipEcho removes the echo of a request from the received bytes.
func (t *Transport) skipEcho(request []byte) error {
	for t.Echoes && !t.framing.numbered() {
		if at := bytes.Index(t.buf, request); at >= 0 {
			t.consume(at + len(request))
			return nil
		}
		if err := t.receive(); err != nil {
			return err
		}
	}
	return nil
}

// awaitBroadcast waits until a broadcast has passed the line and the units have acted on
// it (Modbus over Serial Line V1.02, 2.4.1).
func (t *Transport) awaitBroadcast(line time.Duration) error {
	if _, err := t.discardUntil(t.Last.Begin.Add(line+t.Turnaround), line+t.Turnaround); err != nil {
		return err
	}
	return ErrBroadcast
}

// Post sends a request without waiting for its reply, which Receive returns. First reports
// that no other reply is pending. Deadline applies to the write.
func (t *Transport) Post(request []byte, deadline time.Time, first bool) error {
	t.traced = t.Trace
	if first {
		t.received = false
	}
	return t.write(request, deadline)
}

// Receive waits for the next complete frame with a transaction number, whichever request it
// replies to.
func (t *Transport) Receive(until time.Time) ([]byte, error) {
	frame, err := t.receiveFrame(until)
	t.Last.End = time.Now()
	if err == nil {
		t.answered = true
	}
	return frame, err
}

func (t *Transport) receiveFrame(until time.Time) ([]byte, error) {
	for {
		frame, used, err := nextFrame(t.buf)
		if err != nil {
			return nil, err
		}
		if frame != nil {
			frame = slices.Clone(frame)
			t.consume(used)
			return frame, nil
		}
		if err := t.conn.SetDeadline(until); err != nil {
			return nil, t.ioError(err)
		}
		if err := t.receive(); err != nil {
			return nil, err
		}
	}
}
