package modbus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
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
	// characters need.
	timeout time.Duration

	conn   conn
	unhook func() bool
	buf    []byte
	proven bool // something was answered on this connection
	begin  time.Time
	end    time.Time // of the last transaction
	owed   owed
	heard  bool // anything came in during the last transaction
}

// owed is an answer without a number that did not come in time. Until then it could
// be taken for the answer to the next request of the same unit.
type owed struct {
	unit  byte
	until time.Time
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
	w.conn, w.buf, w.proven, w.owed = c, w.buf[:0], false, owed{}
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
	case errors.Is(err, errTimeout):
		if !w.framing.numbered() {
			w.owed = owed{unit: request[0], until: w.end.Add(w.end.Sub(w.begin))}
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
	deadline := w.begin.Add(w.timeout)
	if w.character > 0 {
		characters := len(request) + answerLength(request[1:len(request)-2]) + rtuEnvelope
		deadline = deadline.Add(time.Duration(characters) * w.character)
	}
	if err := w.conn.SetDeadline(deadline); err != nil {
		return nil, w.failed(err)
	}
	if _, err := w.conn.Write(request); err != nil {
		return nil, w.failed(err)
	}
	for {
		answer, used, err := w.framing.find(request, w.buf)
		if answer != nil {
			answer = append([]byte(nil), answer...)
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

// settle makes sure that what comes next can only be the answer to request.
func (w *wire) settle(request []byte) error {
	if w.framing.numbered() {
		if w.datagram {
			w.buf = w.buf[:0]
		}
		return nil
	}
	now := time.Now()
	if w.owed.unit == request[0] && now.Before(w.owed.until) {
		if err := w.discard(w.owed.until, max(w.silence, lineSettled)); err != nil {
			return err
		}
	}
	w.owed = owed{}
	if w.silence > 0 {
		if err := w.discard(time.Now().Add(w.silence), w.silence); err != nil {
			return err
		}
	}
	w.buf = w.buf[:0]
	return nil
}

// discard drops what comes in until a time, or, once something came, until the line
// has been silent for quiet.
func (w *wire) discard(until time.Time, quiet time.Duration) error {
	for {
		if err := w.conn.SetDeadline(until); err != nil {
			return w.failed(err)
		}
		err := w.receive()
		w.buf = w.buf[:0]
		switch {
		case errors.Is(err, errTimeout):
			return nil
		case err != nil:
			return err
		}
		until = time.Now().Add(quiet)
	}
}

func (w *wire) receive() error {
	var chunk [512]byte
	n, err := w.conn.Read(chunk[:])
	w.buf = append(w.buf, chunk[:n]...)
	switch {
	case n > 0:
		w.heard = true
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
