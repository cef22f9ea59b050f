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
	return inside(s, func() (net.Conn, error) { return net.DialTimeout("tcp4", address, timeout) })
}

// Listen listens at a TCP address inside the site. Connections are accepted by this process, wherever it
// runs.
func (s Site) Listen(address string) (net.Listener, error) {
	return inside(s, func() (net.Listener, error) { return net.Listen("tcp4", address) })
}

// AddAddress gives the site's loopback device an address.
func (s Site) AddAddress(address string) error {
	return ip("-n", s.namespace(), "addr", "replace", address+"/32", "dev", "lo")
}

// inside calls do in the site's network namespace.
func inside[T any](s Site, do func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		// Not unlocked: the thread has left the host's namespace and ends with
		// this goroutine.
		runtime.LockOSThread()
		if err := s.enter(); err != nil {
			done <- result{err: err}
			return
		}
		value, err := do()
		done <- result{value, err}
	}()
	r := <-done
	return r.value, r.err
}

// enter moves the calling thread into the site's network namespace.
func (s Site) enter() error {
	fd, err := unix.Open(s.Namespace(), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open namespace of %s: %w", s.Name, err)
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter namespace of %s: %w", s.Name, err)
	}
	return nil
}
