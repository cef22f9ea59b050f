package network

import (
	"fmt"
	"net"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Dial connects to a TCP address, an IP literal and port, from inside the site.
func (s Site) Dial(address string, timeout time.Duration) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		// Not unlocked: the thread has left the host's namespace and ends with
		// this goroutine.
		runtime.LockOSThread()
		conn, err := s.dialHere(address, timeout)
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}

func (s Site) dialHere(address string, timeout time.Duration) (net.Conn, error) {
	fd, err := unix.Open(s.Namespace(), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open namespace of %s: %w", s.Name, err)
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("enter namespace of %s: %w", s.Name, err)
	}
	return net.DialTimeout("tcp4", address, timeout)
}
