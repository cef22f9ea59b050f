package wire

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// drain drops bytes that came in since the last reply. On a serial line it waits until the
// line has been silent for the time that must lie between frames. It waits in the kernel,
// because timers of the Go runtime are coarser than that.
func (t *Transport) drain() error {
	raw, ok := t.conn.(syscall.Conn)
	if !ok { // neither a socket nor a port: it cannot be polled
		return nil
	}
	begin, discarded := time.Now(), 0
	for {
		rest := max(t.silence-time.Since(t.lastActivity), 0)
		came, err := awaitInput(raw, rest)
		if err != nil {
			return t.ioError(err)
		}
		if !came {
			return nil
		}
		n, err := t.discardAvailable(raw)
		if err != nil {
			return err
		}
		// A line that is silent may look otherwise to a program that is held up.
		if discarded += n; discarded > readSize && time.Since(begin) > t.Timeout {
			return fmt.Errorf("%w: the line is never silent", ErrGarbled)
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
