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

var (
	portsMu sync.Mutex
	ports   = map[int]bool{}
)

// Addr returns a loopback address that nobody listens on, and never the same one twice.
func Addr(t testing.TB) string {
	t.Helper()
	return fmt.Sprintf("127.0.0.1:%d", Port(t))
}

// Port returns a TCP port that nobody listens on at 127.0.0.1, and never the same one twice.
func Port(t testing.TB) int {
	t.Helper()
	portsMu.Lock()
	defer portsMu.Unlock()
	var err error
	for range 1000 {
		port := firstPort + rand.IntN(lastPort-firstPort)
		if ports[port] {
			continue
		}
		var l net.Listener
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err != nil {
			continue
		}
		ports[port] = true
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		return port
	}
	t.Fatalf("find a free port: %v", err)
	return 0
}
