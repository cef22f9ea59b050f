// Package porttest finds ports for the servers of tests.
package porttest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
)

// Ports are handed out from below the range that Linux takes ports of connections from, so
// that no connection of another test gets one before it is listened on.
const firstPort, lastPort = 10_000, 32_000

// reserved holds a socket for each port that this process has handed out. Its name tells the
// tests of other packages, which run at the same time, that the port is taken before anybody
// listens on it. Such a name (unix(7), abstract) ends with the process.
var (
	reservedMu sync.Mutex
	reserved   = map[int]net.Listener{}
)

func reserve(port int) error {
	l, err := net.Listen("unix", fmt.Sprintf("@petiole-test-port-%d", port))
	if err == nil {
		reserved[port] = l
	}
	return err
}

// Addr returns a loopback address that nobody listens on, and never the same one twice while a
// test runs that has it.
func Addr(t testing.TB) string {
	t.Helper()
	return fmt.Sprintf("127.0.0.1:%d", Port(t))
}

// Port returns a TCP port that nobody listens on at 127.0.0.1, and never the same one twice while
// a test runs that has it.
func Port(t testing.TB) int {
	t.Helper()
	reservedMu.Lock()
	defer reservedMu.Unlock()
	var err error
	for range 1000 {
		port := firstPort + rand.IntN(lastPort-firstPort)
		if err = reserve(port); err != nil {
			continue
		}
		var l net.Listener
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err != nil {
			continue
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		return port
	}
	t.Fatalf("find a free port: %v", err)
	return 0
}
