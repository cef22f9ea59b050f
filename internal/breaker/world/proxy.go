package world

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/petiole-io/petiole/internal/lab/pki"
)

// Mode is the way in which a proxy treats requests.
type Mode int32

const (
	// PassAll forwards every request.
	PassAll Mode = iota
	// RefuseAll breaks every connection.
	RefuseAll
	// Throttle answers most requests with 429.
	Throttle
	// FailSome answers many requests with a 5xx status, half of them after the API server
	// has carried them out.
	FailSome
	// HoldWatches ends open watches cleanly and delays new ones; other
	// requests pass.
	HoldWatches
)

const (
	throttledShare = 0.8
	brokenShare    = 0.6
)

// leasePath is the Lease for which bridges compete.
const leasePath = "/apis/coordination.k8s.io/v1/namespaces/petiole-system/leases/bridge"

// Write is a change that a bridge made at the API server, or tried to.
type Write struct {
	Bridge, Method, Path string
	// Term is the bridge's term when it sent the request, by the world's own count: how often
	// leadership had changed hands when it last won the lease; 0 before.
	Term int64
	// Code is the status of the API server's answer, 0 if there was none.
	Code      int
	Call, End time.Time
}

// election counts how often leadership changes hands. The lease's own count may go back
// with the storage.
type election struct {
	mu          sync.Mutex
	term        int64
	holder      string
	transitions int32
}

// won records that a bridge holds the lease, and returns its term.
func (e *election) won(holder string, transitions int32) int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.holder != holder || e.transitions != transitions {
		e.term++
		e.holder, e.transitions = holder, transitions
	}
	return e.term
}

// Proxy is a proxy between one bridge and the API server. It authenticates as the bridge,
// sees every request, and can inject faults.
type Proxy struct {
	bridge  string
	server  *http.Server
	ln      net.Listener
	proxy   *httputil.ReverseProxy
	onWrite func(Write)
	race    *election

	mode atomic.Int32
	term atomic.Int64
	// Expired counts the answers 410, Injected the answers that this proxy gave
	// itself.
	Expired, Injected atomic.Int64

	mu sync.Mutex
	// watches and others are the requests under way.
	watches, others *group
	// lists counts the LIST requests by their paths.
	lists map[string]int64
	// changed is closed and replaced when the mode changes.
	changed chan struct{}
}

// startProxy listens at address. serving is the certificate that the bridge sees, client
// the bridge's own.
func startProxy(bridge, address, upstream string, ca *pki.Authority, serving, client pki.Pair, race *election, onWrite func(Write)) (*Proxy, error) {
	target, err := url.Parse(upstream)
	if err != nil {
		return nil, fmt.Errorf("start proxy: %w", err)
	}
	pem, err := os.ReadFile(ca.CertFile)
	if err != nil {
		return nil, fmt.Errorf("start proxy: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("start proxy: %s holds no certificate", ca.CertFile)
	}
	own, err := tls.LoadX509KeyPair(client.CertFile, client.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("start proxy: %w", err)
	}
	face, err := tls.LoadX509KeyPair(serving.CertFile, serving.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("start proxy: %w", err)
	}
	g := &Proxy{bridge: bridge, onWrite: onWrite, race: race, lists: map[string]int64{}, changed: make(chan struct{})}
	g.watches, g.others = newGroup(), newGroup()
	quiet := log.New(io.Discard, "", 0)
	g.proxy = &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{own}}, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 8},
		FlushInterval: -1, ErrorLog: quiet, ModifyResponse: g.answered,
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	if g.ln, err = net.Listen("tcp", address); err != nil {
		return nil, fmt.Errorf("start proxy: %w", err)
	}
	g.server = &http.Server{Handler: g, TLSConfig: &tls.Config{Certificates: []tls.Certificate{face}}, ErrorLog: quiet, ReadHeaderTimeout: 10 * time.Second}
	go g.server.ServeTLS(g.ln, "", "") //nolint:errcheck // ends with Close
	return g, nil
}

// SetMode sets the mode. Requests and watches that are under way are broken off, so
// that it applies to all.
func (p *Proxy) SetMode(w Mode) {
	p.mode.Store(int32(w))
	p.mu.Lock()
	close(p.changed)
	p.changed = make(chan struct{})
	p.mu.Unlock()
	switch w {
	case PassAll:
	case HoldWatches:
		p.end(false)
	default:
		p.end(true)
	}
}

// Listed returns the number of LIST requests so far, by path.
func (p *Proxy) Listed() map[string]int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.lists)
}

// end breaks off the watches that are under way, and with all set the other requests,
// too.
func (p *Proxy) end(all bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.watches.end()
	if all {
		p.others.end()
	}
}

// group holds requests that end together: its channel is closed then.
type group struct{ ended chan struct{} }

func newGroup() *group { return &group{make(chan struct{})} }

// end ends all requests under way. Later ones are not affected.
func (g *group) end() {
	close(g.ended)
	g.ended = make(chan struct{})
}

func (p *Proxy) close() error {
	p.end(true)
	return p.server.Close()
}

func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if watches(r) && !p.awaitRelease(r.Context()) {
		panic(http.ErrAbortHandler)
	}
	p.mu.Lock()
	ended := p.others.ended
	if watches(r) {
		ended = p.watches.ended
	}
	p.mu.Unlock()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	go func() {
		select {
		case <-ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	r = r.WithContext(ctx)
	if r.Method == http.MethodGet && isList(r.URL) {
		p.mu.Lock()
		p.lists[r.URL.Path]++
		p.mu.Unlock()
	}
	switch Mode(p.mode.Load()) {
	case RefuseAll:
		p.Injected.Add(1)
		panic(http.ErrAbortHandler)
	case Throttle:
		if rand.Float64() < throttledShare {
			p.Injected.Add(1)
			w.Header().Set("Retry-After", "1")
			http.Error(w, "too many requests", http.StatusTooManyRequests)
			return
		}
	case FailSome:
		if rand.Float64() < brokenShare {
			p.Injected.Add(1)
			if rand.IntN(2) == 0 && r.Method != http.MethodGet {
				p.forward(discardWriter{http.Header{}}, r)
			}
			codes := []int{http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout}
			http.Error(w, "broken", codes[rand.IntN(len(codes))])
			return
		}
	}
	p.forward(w, r)
}

// awaitRelease blocks while watches are held, and reports whether the client still waits.
func (p *Proxy) awaitRelease(ctx context.Context) bool {
	for {
		p.mu.Lock()
		changed := p.changed
		p.mu.Unlock()
		if Mode(p.mode.Load()) != HoldWatches {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-changed:
		}
	}
}

// forward forwards the request and reports it to onWrite if it is a write.
func (p *Proxy) forward(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet {
		p.proxy.ServeHTTP(w, r)
		return
	}
	seen := &statusWriter{ResponseWriter: w}
	write := Write{Bridge: p.bridge, Method: r.Method, Path: r.URL.Path, Term: p.term.Load(), Call: time.Now()}
	defer func() {
		write.Code, write.End = seen.code, time.Now()
		p.onWrite(write)
	}()
	p.proxy.ServeHTTP(seen, r)
}

// answered inspects the API server's answers: expired watches, and the lease.
func (p *Proxy) answered(resp *http.Response) error {
	r := resp.Request
	if resp.StatusCode == http.StatusGone {
		p.Expired.Add(1)
	}
	if watches(r) {
		resp.Body = &watchBody{ReadCloser: resp.Body, proxy: p}
		return nil
	}
	lease := r.URL.Path == leasePath || r.Method == http.MethodPost && r.URL.Path == strings.TrimSuffix(leasePath, "/bridge")
	if !lease || r.Method == http.MethodGet || resp.StatusCode >= 300 || resp.Header.Get("Content-Encoding") != "" {
		return nil
	}
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	resp.Body = io.NopCloser(bytes.NewReader(data))
	obj, _, err := scheme.Codecs.UniversalDeserializer().Decode(data, nil, nil)
	if err != nil {
		return nil
	}
	if l, ok := obj.(*coordinationv1.Lease); ok && l.Spec.LeaseTransitions != nil && l.Spec.HolderIdentity != nil && *l.Spec.HolderIdentity == p.bridge {
		p.term.Store(p.race.won(p.bridge, *l.Spec.LeaseTransitions))
	}
	return nil
}

func watches(r *http.Request) bool {
	return r.Method == http.MethodGet && r.URL.Query().Get("watch") != ""
}

func isList(u *url.URL) bool {
	if u.Query().Get("watch") != "" {
		return false
	}
	// /api/v1/… and /apis/<group>/<version>/…: [namespaces/<ns>/]<resource>[/<name>…].
	p := strings.Split(strings.Trim(u.Path, "/"), "/")
	switch {
	case len(p) > 2 && p[0] == "api":
		p = p[2:]
	case len(p) > 3 && p[0] == "apis":
		p = p[3:]
	default:
		return false
	}
	if len(p) > 2 && p[0] == "namespaces" {
		p = p[2:]
	}
	return len(p) == 1
}

// statusWriter remembers the status.
type statusWriter struct {
	http.ResponseWriter
	code int
}

func (s *statusWriter) WriteHeader(code int) {
	s.code = code
	s.ResponseWriter.WriteHeader(code)
}

func (s *statusWriter) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// discardWriter discards an answer.
type discardWriter struct{ header http.Header }

func (b discardWriter) Header() http.Header         { return b.header }
func (b discardWriter) Write(p []byte) (int, error) { return len(p), nil }
func (b discardWriter) WriteHeader(int)             {}

// watchBody counts an expired watch, an event of type ERROR whose status is 410, and
// ends cleanly when watches are held.
type watchBody struct {
	io.ReadCloser
	proxy   *Proxy
	counted bool
}

var gone = []byte(strconv.Itoa(http.StatusGone))

func (b *watchBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if !b.counted && bytes.Contains(p[:n], []byte(`ERROR`)) && (bytes.Contains(p[:n], gone) || bytes.Contains(p[:n], []byte("Expired"))) {
		b.counted = true
		b.proxy.Expired.Add(1)
	}
	if err != nil && Mode(b.proxy.mode.Load()) == HoldWatches {
		err = io.EOF
	}
	return n, err
}
