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

// quieten drops what came in since the last answer. On a serial line it waits until
// the line has been silent for as long as frames must be apart. Timers of the runtime
// are coarser than that silence, so the kernel waits.
func (w *wire) quieten() error {
	raw, ok := w.conn.(syscall.Conn)
	if !ok { // not a socket nor a port: nothing that could be asked without waiting
		return nil
	}
	for begin := time.Now(); ; {
		rest := max(w.silence-time.Since(w.touched), 0)
		came, err := awaitInput(raw, rest)
		if err != nil {
			return w.failed(err)
		}
		if !came {
			return nil
		}
		if err := w.drop(raw); err != nil {
			return err
		}
		if time.Since(begin) > w.timeout {
			return fmt.Errorf("%w: the line is never silent", errGarbled)
		}
	}
}

// awaitInput waits in the kernel until something can be read; false means that
// nothing came. The connection is not closed meanwhile.
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

// drop reads what has come in, without waiting, and forgets it.
func (w *wire) drop(c syscall.Conn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return w.failed(err)
	}
	if err := w.conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return w.failed(err)
	}
	var chunk [readSize]byte
	n, failed := 0, error(nil)
	err = raw.Read(func(fd uintptr) bool {
		n, failed = unix.Read(int(fd), chunk[:])
		return true
	})
	switch {
	case err != nil:
		return w.failed(err)
	case errors.Is(failed, unix.EAGAIN) || errors.Is(failed, unix.EINTR):
		return nil
	case failed != nil:
		return w.failed(&os.PathError{Op: "read", Path: "connection", Err: failed})
	case n == 0:
		return w.failed(io.EOF)
	}
	w.touched = time.Now()
	w.trace(false, chunk[:n])
	return nil
}
