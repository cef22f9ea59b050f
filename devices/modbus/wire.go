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

// maxUnanswered is how many bytes may come that answer nothing.
const maxUnanswered = 4096

// lineSettled is the shortest silence after which a late answer counts as over.
const lineSettled = 5 * time.Millisecond

// readSize is the least room for what is received at once: more than any frame.
const readSize = 512

// errBroadcast tells that a request was sent to all units, so that none answers.
var errBroadcast = errors.New("broadcast: nobody answers")

// errClosed marks a connection that had gone before anything was answered: a read
// may be sent again over a new one.
var errClosed = fmt.Errorf("%w: closed by the other side", errLink)

// wire sends one request at a time over a connection and finds its answer. It is
// the transporter of goburrow's clients. It belongs to one goroutine.
type wire struct {
	dial     dialer
	framing  framing
	datagram bool
	// silence must lie between frames, and a character takes character, on a serial
	// line; elsewhere both are zero.
	silence, character time.Duration

	// timeout is how long the next transaction may take, besides the time that its
	// characters need. A late answer comes within longest, at the latest.
	timeout, longest time.Duration
	// turnaround is how long slaves take to act on a broadcast.
	turnaround time.Duration
	traced     bool
	echoes     bool // what is sent comes back before the answer

	log     *zap.Logger
	conn    conn
	unhook  func() bool
	buf     []byte
	proven  bool // something was answered on this connection
	begin   time.Time
	end     time.Time // of the last transaction
	latency time.Duration
	touched time.Time // when anything was sent or received last
	// owed is until when answers that did not come in time may still come, by unit.
	owed map[byte]time.Time
	// doubtful tells that the next answer may be one that is owed; grace is how long
	// the unit takes for the one after it.
	doubtful bool
	grace    time.Duration
	heard    bool // anything came in during the last transaction
	// posted tells that something went out since the last change began.
	posted bool
	frames frames
}

// newWire makes the wire of an endpoint, without I/O.
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

// connect opens the connection if it is not open. When ctx ends the connection is
// closed, which ends what waits on it.
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
	w.conn, w.buf, w.proven, w.owed, w.touched = c, w.buf[:0], false, map[byte]time.Time{}, time.Now()
	w.unhook = context.AfterFunc(ctx, func() { _ = c.Close() })
	return true, nil
}

// disconnect closes the connection.
func (w *wire) disconnect() {
	if w.conn == nil {
		return
	}
	w.unhook()
	_ = w.conn.Close() // nothing is buffered that a failing close could lose
	w.conn = nil
}

// Send is one transaction. After any error but a timeout the connection is closed,
// because nobody knows what comes next on it.
func (w *wire) Send(request []byte) ([]byte, error) {
	if w.conn == nil {
		return nil, errLink
	}
	w.heard = false
	answer, err := w.transact(request)
	w.end = time.Now()
	switch {
	case err == nil:
		w.proven = true
		delete(w.owed, request[0])
	case errors.Is(err, errBroadcast):
	case errors.Is(err, errTimeout):
		if !w.framing.numbered() {
			w.owed[request[0]] = w.end.Add(max(w.longest, w.end.Sub(w.begin)))
		}
	default:
		w.disconnect()
	}
	return answer, err
}

func (w *wire) transact(request []byte) ([]byte, error) {
	if err := w.settle(request); err != nil {
		return nil, err
	}
	w.begin = time.Now()
	line := w.lineTime(request)
	if err := w.post(request, w.begin.Add(w.timeout+line)); err != nil {
		return nil, err
	}
	if !w.framing.numbered() && request[0] == broadcast {
		return nil, w.hush(line)
	}
	if err := w.unecho(request); err != nil {
		return nil, err
	}
	answer, err := w.await(request)
	w.latency = max(time.Since(w.begin)-line, 0)
	if err == nil && w.doubtful {
		return w.confirm(request, answer, line)
	}
	return answer, err
}

// await receives until something answers a request.
func (w *wire) await(request []byte) ([]byte, error) {
	for {
		answer, used, err := w.framing.find(request, w.buf)
		if answer != nil {
			answer = slices.Clone(answer)
			w.consume(used)
			return answer, nil
		}
		if err != nil {
			return nil, err
		}
		w.consume(used)
		if len(w.buf) > maxUnanswered {
			return nil, fmt.Errorf("%w: %d bytes that answer nothing", errGarbled, len(w.buf))
		}
		if err := w.receive(); err != nil {
			return nil, err
		}
	}
}

// unecho takes the echo of a request off what is received.
func (w *wire) unecho(request []byte) error {
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

// lineTime is what the characters of a request and its answer take on the line.
func (w *wire) lineTime(request []byte) time.Duration {
	if w.character == 0 {
		return 0
	}
	characters := len(request)
	if request[0] != broadcast {
		characters += answerLength(request[1:len(request)-2]) + rtuEnvelope
	}
	if w.echoes {
		characters += len(request)
	}
	return time.Duration(characters) * w.character
}

// post sends a request. What is received until the deadline may answer it.
func (w *wire) post(request []byte, deadline time.Time) error {
	if err := w.conn.SetDeadline(deadline); err != nil {
		return w.failed(err)
	}
	w.trace(true, request)
	n, err := w.conn.Write(request)
	w.posted = w.posted || n > 0
	if err != nil {
		return w.failed(err)
	}
	w.touched = time.Now()
	return nil
}

// hush waits until a broadcast is over the line and the slaves have acted on it
// (Modbus over Serial Line V1.02, 2.4.1).
func (w *wire) hush(line time.Duration) error {
	if _, err := w.discard(w.begin.Add(line+w.turnaround), line+w.turnaround); err != nil {
		return err
	}
	return errBroadcast
}

// next waits for the next whole frame of a link with numbers, whosever answer it is.
func (w *wire) next(until time.Time) ([]byte, error) {
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
			return nil, w.failed(err)
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
		w.heard, w.touched = true, time.Now()
		w.trace(false, w.buf[at:])
		return nil
	case err == nil:
		return w.failed(io.ErrUnexpectedEOF) // what reads nothing has been unplugged
	default:
		return w.failed(err)
	}
}

func (w *wire) failed(err error) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errTimeout
	case w.proven && !w.heard:
		return fmt.Errorf("%w: %w", errClosed, err)
	default:
		return fmt.Errorf("%w: %w", errLink, err)
	}
}

func (w *wire) consume(n int) {
	w.buf = w.buf[:copy(w.buf, w.buf[n:])]
}
