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

	// unanswered has the requests whose reply may still come. It outlives a connection: the line
	// behind it is the same.
	unanswered *Unanswered
	// firstOpened is when the connection was opened for the first time. Until MaxTimeout later
	// replies to requests of the line's last user may come.
	firstOpened time.Time
}

// Options are the bounds of a transaction.
type Options struct {
	// Timeout bounds the transaction, without the time that its characters take on the
	// line. The next request to a unit that did not reply waits for MaxTimeout.
	Timeout, MaxTimeout time.Duration
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

// New returns the transport of an endpoint. It does no I/O. Unanswered is that of all transports
// of the endpoint, one after the other.
func New(e Endpoint, unanswered *Unanswered, log *zap.Logger) *Transport {
	return &Transport{medium: newMedium(e), connection: connection{log: log}, unanswered: unanswered}
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

// Written returns the number of requests so far of which at least one byte went out. Requests
// that the transport sends on its own are not among them.
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
	reply, err := t.transact(request)
	t.Last.End = time.Now()
	switch {
	case err == nil:
		t.answered = true
	case !errors.Is(err, ErrTimeout) && !errors.Is(err, ErrBroadcast):
		t.Close()
	}
	return reply, err
}

func (t *Transport) transact(request []byte) ([]byte, error) {
	owed, err := t.discardStale(request)
	if err != nil {
		return nil, err
	}
	if !t.framing.numbered() && request[0] == Broadcast {
		return nil, t.broadcast(request)
	}
	reply, err := t.exchange(request, owed)
	if err == nil && len(owed) > 0 {
		t.unanswered.clear(request[0]) // a unit replies in order
	}
	return reply, err
}

// exchange sends a request and waits for the reply that is none of the owed ones.
func (t *Transport) exchange(request []byte, owed []shape) ([]byte, error) {
	t.Last.Begin = time.Now()
	line := t.lineTime(request, t.Echoes)
	before := t.written
	err := t.write(request, t.Last.Begin.Add(t.Timeout+line))
	if err == nil {
		err = t.skipEcho(request)
	}
	var reply []byte
	if err == nil {
		reply, err = t.awaitReply(request, owed)
	}
	end := time.Now()
	t.Last.Latency = max(end.Sub(t.Last.Begin)-line, 0)
	if err != nil && t.written > before && !t.framing.numbered() {
		t.unanswered.add(request[0], replyShape(request), t.Last.Begin, end, t.MaxTimeout)
	}
	return reply, err
}

// awaitReply receives until the reply to a request is found that is none of the owed ones.
func (t *Transport) awaitReply(request []byte, owed []shape) ([]byte, error) {
	for {
		reply, used, err := t.framing.find(request, t.buf)
		if err != nil {
			return nil, err
		}
		if reply != nil && distinct(request, reply, owed) {
			reply = slices.Clone(reply)
			t.consume(used)
			return reply, nil
		}
		t.consume(used)
		if reply != nil { // another one may follow
			continue
		}
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

// broadcast sends a request to all units, and waits until it has passed the line and the
// units have acted on it (Modbus over Serial Line V1.02, 2.4.1).
func (t *Transport) broadcast(request []byte) error {
	t.Last.Begin = time.Now()
	line := t.lineTime(request, t.Echoes)
	if err := t.write(request, t.Last.Begin.Add(t.Timeout+line)); err != nil {
		return err
	}
	if err := t.discardUntil(t.Last.Begin.Add(line+t.Turnaround), line+t.Turnaround); err != nil {
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
