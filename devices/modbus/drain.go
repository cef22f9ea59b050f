package modbus

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// drain drops bytes that came in since the last reply. On a serial line it waits until the
// line has been silent for the time that must lie between frames. It waits in the kernel,
// because timers of the Go runtime are coarser than that.
func (w *wire) drain() error {
	raw, ok := w.conn.(syscall.Conn)
	if !ok { // neither a socket nor a port: it cannot be polled
		return nil
	}
	for begin := time.Now(); ; {
		rest := max(w.silence-time.Since(w.lastActivity), 0)
		came, err := awaitInput(raw, rest)
		if err != nil {
			return w.ioError(err)
		}
		if !came {
			return nil
		}
		if err := w.discardAvailable(raw); err != nil {
			return err
		}
		if time.Since(begin) > w.timeout {
			return fmt.Errorf("%w: the line is never silent", errGarbled)
		}
	}
}

// awaitInput waits in the kernel until the connection is readable. It returns false if
// that takes longer than limit. The connection must not be closed meanwhile.
func awaitInput(c syscall.Conn, limit time.Duration) (bool, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return false, fmt.Errorf("open connection for waiting: %w", err)
	}
	var ready int
	var failed error
	err = raw.Control(func(fd uintptr) {
		ts := unix.NsecToTimespec(int64(limit))
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		ready, failed = unix.Ppoll(fds, &ts, nil)
	})
	if err == nil && failed != nil && !errors.Is(failed, unix.EINTR) {
		err = failed
	}
	return ready > 0, err
}

// discardAvailable reads and drops what has been received, without waiting.
func (w *wire) discardAvailable(c syscall.Conn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return w.ioError(err)
	}
	if err := w.conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return w.ioError(err)
	}
	var chunk [readSize]byte
	n, failed := 0, error(nil)
	err = raw.Read(func(fd uintptr) bool {
		n, failed = unix.Read(int(fd), chunk[:])
		return true
	})
	switch {
	case err != nil:
		return w.ioError(err)
	case errors.Is(failed, unix.EAGAIN) || errors.Is(failed, unix.EINTR):
		return nil
	case failed != nil:
		return w.ioError(&os.PathError{Op: "read", Path: "connection", Err: failed})
	case n == 0:
		return w.ioError(io.EOF)
	}
	w.lastActivity = time.Now()
	w.trace(false, chunk[:n])
	return nil
}
