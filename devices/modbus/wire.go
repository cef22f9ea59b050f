package modbus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"go.uber.org/zap"
)

// conn is an open connection: a socket or a serial port.
type conn interface {
	io.ReadWriteCloser
	SetDeadline(t time.Time) error
}

// dialer opens a connection.
type dialer func(ctx context.Context) (conn, error)

// maxUnmatched is the most received bytes that may match no request.
const maxUnmatched = 4096

// minQuiet is the shortest silence that ends a late reply.
const minQuiet = 5 * time.Millisecond

// readSize is the least room for one read: more than any frame needs.
const readSize = 512

// errBroadcast is the result of a request to all units, to which none replies.
var errBroadcast = errors.New("broadcast: no unit replies")

// errClosed is the result of a request on a connection that the other side had closed
// before: a read may be sent again over a new one.
var errClosed = fmt.Errorf("%w: closed by the other side", errLink)

// wire sends one request at a time over a connection and finds its reply. It implements
// the transporter of goburrow's clients. It belongs to one goroutine.
type wire struct {
	dial     dialer
	framing  framing
	datagram bool
	// silence is the least time between frames, and character the duration of one
	// character, on a serial line; elsewhere both are zero.
	silence, character time.Duration

	// timeout bounds the next transaction, without the time that its characters take on the
	// line. No reply comes later than maxTimeout.
	timeout, maxTimeout time.Duration
	// turnaround is the time that units take to act on a broadcast.
	turnaround time.Duration
	traced     bool
	echoes     bool // the adapter returns what is sent before the reply

	log          *zap.Logger
	conn         conn
	stopWatching func() bool
	buf          []byte
	answered     bool // a reply was received on this connection
	begin        time.Time
	end          time.Time // of the last transaction
	latency      time.Duration
	lastActivity time.Time // when something was sent or received last
	// staleUntil has, for each unit that did not reply in time, until when its late reply
	// may still come.
	staleUntil map[byte]time.Time
	// maybeStale reports that the next reply may be a late one; grace is how long to wait
	// for the one after it.
	maybeStale bool
	grace      time.Duration
	received   bool // something was received during the last transaction
	// written reports whether a request went out since the last write began.
	written bool
	frames  frames
}

// newWire returns the wire of an endpoint. It does no I/O.
func newWire(e endpoint) *wire {
	switch e.mode {
	case modeTLS:
		return newTLS(e)
	case modeUDP:
		return newUDP(e)
	case modeRTUOverTCP:
		return newRTUOverTCP(e)
	case modeRTU:
		return newSerial(e)
	default:
		return newTCP(e)
	}
}

// connect opens the connection if it is not open. When ctx ends the connection is closed,
// which unblocks reads and writes.
func (w *wire) connect(ctx context.Context, timeout time.Duration) (opened bool, err error) {
	if w.conn != nil {
		return false, nil
	}
	dctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	c, err := w.dial(dctx)
	if err != nil {
		return false, fmt.Errorf("%w: connect: %w", errLink, err)
	}
	w.conn, w.buf, w.answered, w.staleUntil, w.lastActivity = c, w.buf[:0], false, map[byte]time.Time{}, time.Now()
	w.stopWatching = context.AfterFunc(ctx, func() { _ = c.Close() })
	return true, nil
}

// disconnect closes the connection.
func (w *wire) disconnect() {
	if w.conn == nil {
		return
	}
	w.stopWatching()
	_ = w.conn.Close() // nothing is buffered, so a failing close loses nothing
	w.conn = nil
}

// Send runs one transaction. After any error but a timeout it closes the connection,
// because it cannot know what comes next on it.
func (w *wire) Send(request []byte) ([]byte, error) {
	if w.conn == nil {
		return nil, errLink
	}
	w.received = false
	reply, err := w.transact(request)
	w.end = time.Now()
	switch {
	case err == nil:
		w.answered = true
		delete(w.staleUntil, request[0])
	case errors.Is(err, errBroadcast):
	case errors.Is(err, errTimeout):
		if !w.framing.numbered() {
			w.staleUntil[request[0]] = w.end.Add(max(w.maxTimeout, w.end.Sub(w.begin)))
		}
	default:
		w.disconnect()
	}
	return reply, err
}

func (w *wire) transact(request []byte) ([]byte, error) {
	if err := w.awaitStale(request); err != nil {
		return nil, err
	}
	w.begin = time.Now()
	line := w.lineTime(request)
	if err := w.write(request, w.begin.Add(w.timeout+line)); err != nil {
		return nil, err
	}
	if !w.framing.numbered() && request[0] == broadcast {
		return nil, w.awaitBroadcast(line)
	}
	if err := w.skipEcho(request); err != nil {
		return nil, err
	}
	reply, err := w.awaitReply(request)
	w.latency = max(time.Since(w.begin)-line, 0)
	if err == nil && w.maybeStale {
		return w.lastReply(request, reply, line)
	}
	return reply, err
}

// awaitReply receives until the reply to a request is found.
func (w *wire) awaitReply(request []byte) ([]byte, error) {
	for {
		reply, used, err := w.framing.find(request, w.buf)
		if reply != nil {
			reply = slices.Clone(reply)
			w.consume(used)
			return reply, nil
		}
		if err != nil {
			return nil, err
		}
		w.consume(used)
		if len(w.buf) > maxUnmatched {
			return nil, fmt.Errorf("%w: received %d bytes without a reply to the request", errGarbled, len(w.buf))
		}
		if err := w.receive(); err != nil {
			return nil, err
		}
	}
}

// skipEcho removes the echo of a request from the received bytes.
func (w *wire) skipEcho(request []byte) error {
	for w.echoes && !w.framing.numbered() {
		if at := bytes.Index(w.buf, request); at >= 0 {
			w.consume(at + len(request))
			return nil
		}
		if err := w.receive(); err != nil {
			return err
		}
	}
	return nil
}

// lineTime returns the time that the characters of a request and its reply take on the
// line.
func (w *wire) lineTime(request []byte) time.Duration {
	if w.character == 0 {
		return 0
	}
	characters := len(request)
	if request[0] != broadcast {
		characters += replyLength(request[1:len(request)-2]) + rtuEnvelope
	}
	if w.echoes {
		characters += len(request)
	}
	return time.Duration(characters) * w.character
}

// write sends a request. Deadline applies to it and to the reads that follow.
func (w *wire) write(request []byte, deadline time.Time) error {
	if err := w.conn.SetDeadline(deadline); err != nil {
		return w.ioError(err)
	}
	w.trace(true, request)
	n, err := w.conn.Write(request)
	w.written = w.written || n > 0
	if err != nil {
		return w.ioError(err)
	}
	w.lastActivity = time.Now()
	return nil
}

// awaitBroadcast waits until a broadcast has passed the line and the units have acted on
// it (Modbus over Serial Line V1.02, 2.4.1).
func (w *wire) awaitBroadcast(line time.Duration) error {
	if _, err := w.discardUntil(w.begin.Add(line+w.turnaround), line+w.turnaround); err != nil {
		return err
	}
	return errBroadcast
}

// receiveFrame waits for the next complete frame with a transaction number, whichever
// request it replies to.
func (w *wire) receiveFrame(until time.Time) ([]byte, error) {
	for {
		frame, used, err := nextFrame(w.buf)
		if err != nil {
			return nil, err
		}
		if frame != nil {
			frame = slices.Clone(frame)
			w.consume(used)
			return frame, nil
		}
		if err := w.conn.SetDeadline(until); err != nil {
			return nil, w.ioError(err)
		}
		if err := w.receive(); err != nil {
			return nil, err
		}
	}
}

func (w *wire) receive() error {
	w.buf = slices.Grow(w.buf, readSize)
	at := len(w.buf)
	n, err := w.conn.Read(w.buf[at : at+readSize])
	w.buf = w.buf[:at+n]
	switch {
	case n > 0:
		w.received, w.lastActivity = true, time.Now()
		w.trace(false, w.buf[at:])
		return nil
	case err == nil:
		return w.ioError(io.ErrUnexpectedEOF) // a port that returns no bytes has been unplugged
	default:
		return w.ioError(err)
	}
}

func (w *wire) ioError(err error) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errTimeout
	case w.answered && !w.received:
		return fmt.Errorf("%w: %w", errClosed, err)
	default:
		return fmt.Errorf("%w: %w", errLink, err)
	}
}

func (w *wire) consume(n int) {
	w.buf = w.buf[:copy(w.buf, w.buf[n:])]
}
