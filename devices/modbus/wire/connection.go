package wire

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// conn is an open connection: a socket or a serial port.
type conn interface {
	io.ReadWriteCloser
	SetDeadline(t time.Time) error
}

// dialer opens a connection.
type dialer func(ctx context.Context) (conn, error)

// connection reads and writes the bytes of one connection at a time. It is closed while conn
// is nil.
type connection struct {
	log          *zap.Logger
	conn         conn
	stopWatching func() bool
	buf          []byte    // received and not consumed
	answered     bool      // a reply was received on this connection
	received     bool      // something was received during the last transaction
	lastActivity time.Time // when something was sent or received last
	written      int       // number of requests that went out, whole or in part
	traced       bool
	frames       frames
}

// readSize is the least room for one read: more than any frame needs.
const readSize = 512

// open takes over an open connection. When ctx ends the connection is closed, which unblocks
// reads and writes.
func (c *connection) open(ctx context.Context, opened conn) {
	c.conn, c.buf, c.answered, c.lastActivity = opened, c.buf[:0], false, time.Now()
	c.stopWatching = context.AfterFunc(ctx, func() { _ = opened.Close() })
}

// write sends a request. Deadline applies to it and to the reads that follow.
func (c *connection) write(request []byte, deadline time.Time) error {
	if err := c.conn.SetDeadline(deadline); err != nil {
		return c.ioError(err)
	}
	c.trace(true, request)
	n, err := c.conn.Write(request)
	if n > 0 {
		c.written++
	}
	if err != nil {
		return c.ioError(err)
	}
	c.lastActivity = time.Now()
	return nil
}

func (c *connection) receive() error {
	c.buf = slices.Grow(c.buf, readSize)
	at := len(c.buf)
	n, err := c.conn.Read(c.buf[at : at+readSize])
	c.buf = c.buf[:at+n]
	switch {
	case n > 0:
		c.received, c.lastActivity = true, time.Now()
		c.trace(false, c.buf[at:])
		return nil
	case err == nil:
		return c.ioError(io.ErrUnexpectedEOF) // a port that returns no bytes has been unplugged
	default:
		return c.ioError(err)
	}
}

func (c *connection) ioError(err error) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return ErrTimeout
	case c.answered && !c.received && !errors.Is(err, os.ErrClosed) && !errors.Is(err, net.ErrClosed): // not by the end of its context
		return fmt.Errorf("%w: %w", ErrClosed, err)
	default:
		return fmt.Errorf("%w: %w", ErrLink, err)
	}
}

func (c *connection) consume(n int) {
	c.buf = c.buf[:copy(c.buf, c.buf[n:])]
}

// discardAvailable reads and drops what has been received, without waiting. It returns the
// number of bytes.
func (c *connection) discardAvailable(s syscall.Conn) (int, error) {
	raw, err := s.SyscallConn()
	if err != nil {
		return 0, c.ioError(err)
	}
	if err := c.conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return 0, c.ioError(err)
	}
	var chunk [readSize]byte
	n, failed := 0, error(nil)
	err = raw.Read(func(fd uintptr) bool {
		n, failed = unix.Read(int(fd), chunk[:])
		return true
	})
	switch {
	case err != nil:
		return 0, c.ioError(err)
	case errors.Is(failed, unix.EAGAIN) || errors.Is(failed, unix.EINTR):
		return 0, nil
	case failed != nil:
		return 0, c.ioError(&os.PathError{Op: "read", Path: "connection", Err: failed})
	case n == 0:
		return 0, c.ioError(io.EOF)
	}
	c.lastActivity = time.Now()
	c.trace(false, chunk[:n])
	return n, nil
}

// trace adds bytes to frames, and logs them if the settings say so.
func (c *connection) trace(sent bool, b []byte) {
	now := time.Now()
	c.frames.add(sent, now, b)
	if c.traced {
		c.log.Debug("frame", zap.Bool("sent", sent), zap.Time("at", now), zap.String("bytes", hex.EncodeToString(b)))
	}
}
