package natstest

import (
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/petiole-io/petiole/internal/porttest"
)

// Proxy is an HTTP proxy that answers CONNECT.
type Proxy struct {
	URL, Addr     string
	authorization string
	refuse        atomic.Bool
	connections   atomic.Int64

	mu    sync.Mutex
	conns []net.Conn
	wait  sync.WaitGroup
}

// StartProxy runs a proxy until the test ends. With a user it wants Basic authentication.
func StartProxy(t testing.TB, user, password string) *Proxy {
	t.Helper()
	addr := porttest.Addr(t)
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{URL: "http://" + addr, Addr: addr}
	if user != "" {
		p.authorization = "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
	}
	s := &http.Server{Handler: p, ReadHeaderTimeout: time.Minute}
	p.wait.Go(func() { _ = s.Serve(l) }) // ends with Close
	t.Cleanup(func() {
		_ = s.Close()
		p.mu.Lock()
		for _, c := range p.conns {
			_ = c.Close()
		}
		p.mu.Unlock()
		p.wait.Wait()
	})
	return p
}

// Refuse makes the proxy forbid every connection, or allow it again.
func (p *Proxy) Refuse(refuse bool) { p.refuse.Store(refuse) }

// Connections returns the number of connections that the proxy has made.
func (p *Proxy) Connections() int64 { return p.connections.Load() }

// ServeHTTP implements http.Handler.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method != http.MethodConnect:
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	case p.authorization != "" && r.Header.Get("Proxy-Authorization") != p.authorization:
		w.Header().Set("Proxy-Authenticate", "Basic")
		w.WriteHeader(http.StatusProxyAuthRequired)
		return
	case p.refuse.Load():
		w.WriteHeader(http.StatusForbidden)
		return
	}
	far, err := net.Dial("tcp", r.Host)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	near, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		_ = far.Close()
		return
	}
	p.mu.Lock()
	p.conns = append(p.conns, near, far)
	p.mu.Unlock()
	p.connections.Add(1)
	p.wait.Go(func() { pipe(far, buffered, near) })
	_, err = io.WriteString(near, "HTTP/1.1 200 Connection established\r\n\r\n")
	if err == nil {
		pipe(near, far, far)
	}
	_, _ = near.Close(), far.Close() // the test may have closed them
}

// pipe copies from src to dst until either ends, and closes dst and source.
func pipe(dst io.WriteCloser, src io.Reader, source io.Closer) {
	_, _ = io.Copy(dst, src) // the ends see it
	_, _ = dst.Close(), source.Close()
}
