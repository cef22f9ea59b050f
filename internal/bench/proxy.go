package bench

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
)

// proxy lets the stock node or its pods, and nobody else, reach what listens on the host's loopback
// only, such as the API server. On Linux it copies in the kernel (splice).
type proxy struct {
	listener net.Listener
	target   string
	guests   netip.Prefix

	mu    sync.Mutex
	open  map[net.Conn]struct{}
	ended bool
	wg    sync.WaitGroup
}

func startProxy(listen, target string, guest netip.Addr) (*proxy, error) {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return nil, fmt.Errorf("open the stock node's way to the API server: %w", err)
	}
	return serveProxy(l, target, netip.PrefixFrom(guest, guest.BitLen())), nil
}

// serveProxy connects the guests that l accepts with target. It owns l.
func serveProxy(l net.Listener, target string, guests netip.Prefix) *proxy {
	g := &proxy{listener: l, target: target, guests: guests, open: map[net.Conn]struct{}{}}
	g.wg.Go(g.accept)
	return g
}

func (g *proxy) address() string { return g.listener.Addr().String() }

// close ends every connection and returns when all is stopped.
func (g *proxy) close() error {
	err := g.listener.Close()
	g.mu.Lock()
	g.ended = true
	for c := range g.open {
		err = errors.Join(err, c.Close())
	}
	g.mu.Unlock()
	g.wg.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (g *proxy) accept() {
	for {
		conn, err := g.listener.Accept()
		if err != nil {
			return // closed
		}
		g.wg.Go(func() { g.serve(conn) })
	}
}

func (g *proxy) serve(conn net.Conn) {
	defer conn.Close()
	from, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil || !g.guests.Contains(from.Addr().Unmap()) || !g.add(conn) {
		return
	}
	defer g.remove(conn)
	server, err := net.Dial("tcp", g.target)
	if err != nil || !g.add(server) {
		return // the kubelet sees the end of its connection, and tries again
	}
	defer g.remove(server)
	defer server.Close()
	done := make(chan struct{}, 2)
	for _, pair := range [][2]net.Conn{{server, conn}, {conn, server}} {
		g.wg.Go(func() {
			io.Copy(pair[0], pair[1]) //nolint:errcheck // the end of either direction ends both
			done <- struct{}{}
		})
	}
	<-done
}

func (g *proxy) add(c net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ended {
		return false
	}
	g.open[c] = struct{}{}
	return true
}

func (g *proxy) remove(c net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.open, c)
}
