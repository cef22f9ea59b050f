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

// Weather is what a gate does to requests.
type Weather int32

const (
	// Fair passes everything on.
	Fair Weather = iota
	// Closed breaks every connection.
	Closed
	// Throttled answers most requests with 429.
	Throttled
	// Broken answers many requests with a 5xx status, half of them after the API server
	// has carried them out.
	Broken
	// Held ends the watches that are under way in order, and lets new watches wait; other
	// requests pass.
	Held
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
	// Term is the bridge's when it sent the request, by the world's own count: how often
	// leadership had changed hands when it last won the lease; 0 before.
	Term int64
	// Code is the API server's answer, 0 when there was none.
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

// won notes that a bridge holds the lease, and returns its term.
func (e *election) won(holder string, transitions int32) int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.holder != holder || e.transitions != transitions {
		e.term++
		e.holder, e.transitions = holder, transitions
	}
	return e.term
}

// Gate stands between one bridge and the API server. It speaks for the bridge there,
// sees every request, and can be made to spoil them.
type Gate struct {
	bridge  string
	server  *http.Server
	ln      net.Listener
	proxy   *httputil.ReverseProxy
	onWrite func(Write)
	race    *election

	weather atomic.Int32
	term    atomic.Int64
	// Expired and Spoiled count the answers 410, and the answers that this gate made
	// itself.
	Expired, Spoiled atomic.Int64

	mu sync.Mutex
	// watches and others are what is under way.
	watches, others *group
	// lists counts the LIST requests by their paths.
	lists map[string]int64
	// changed is closed and replaced when the weather changes.
	changed chan struct{}
}

// openGate listens at address. serving is the certificate that the bridge sees, client
// the bridge's own.
func openGate(bridge, address, upstream string, ca *pki.Authority, serving, client pki.Pair, race *election, onWrite func(Write)) (*Gate, error) {
	target, err := url.Parse(upstream)
	if err != nil {
		return nil, fmt.Errorf("open gate: %w", err)
	}
	pem, err := os.ReadFile(ca.CertFile)
	if err != nil {
		return nil, fmt.Errorf("open gate: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("open gate: %s holds no certificate", ca.CertFile)
	}
	own, err := tls.LoadX509KeyPair(client.CertFile, client.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("open gate: %w", err)
	}
	face, err := tls.LoadX509KeyPair(serving.CertFile, serving.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("open gate: %w", err)
	}
	g := &Gate{bridge: bridge, onWrite: onWrite, race: race, lists: map[string]int64{}, changed: make(chan struct{})}
	g.watches, g.others = newGroup(), newGroup()
	quiet := log.New(io.Discard, "", 0)
	g.proxy = &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{own}}, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 8},
		FlushInterval: -1, ErrorLog: quiet, ModifyResponse: g.answered,
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	if g.ln, err = net.Listen("tcp", address); err != nil {
		return nil, fmt.Errorf("open gate: %w", err)
	}
	g.server = &http.Server{Handler: g, TLSConfig: &tls.Config{Certificates: []tls.Certificate{face}}, ErrorLog: quiet, ReadHeaderTimeout: 10 * time.Second}
	go g.server.ServeTLS(g.ln, "", "") //nolint:errcheck // ends with Close
	return g, nil
}

// Set makes the weather. Requests and watches that are under way are broken off, so
// that they meet it.
func (g *Gate) Set(w Weather) {
	g.weather.Store(int32(w))
	g.mu.Lock()
	close(g.changed)
	g.changed = make(chan struct{})
	g.mu.Unlock()
	switch w {
	case Fair:
	case Held:
		g.end(false)
	default:
		g.end(true)
	}
}

// Listed counts the LIST requests so far, by their paths.
func (g *Gate) Listed() map[string]int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return maps.Clone(g.lists)
}

// end breaks off the watches that are under way, and with all set the other requests,
// too.
func (g *Gate) end(all bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.watches.end()
	if all {
		g.others.end()
	}
}

// group is requests that end together: its channel is closed then.
type group struct{ ended chan struct{} }

func newGroup() *group { return &group{make(chan struct{})} }

// end ends all that is under way. What comes later is another matter.
func (g *group) end() {
	close(g.ended)
	g.ended = make(chan struct{})
}

func (g *Gate) close() error {
	g.end(true)
	return g.server.Close()
}

func (g *Gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if watches(r) && !g.awaitUnheld(r.Context()) {
		panic(http.ErrAbortHandler)
	}
	g.mu.Lock()
	ended := g.others.ended
	if watches(r) {
		ended = g.watches.ended
	}
	g.mu.Unlock()
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
		g.mu.Lock()
		g.lists[r.URL.Path]++
		g.mu.Unlock()
	}
	switch Weather(g.weather.Load()) {
	case Closed:
		g.Spoiled.Add(1)
		panic(http.ErrAbortHandler)
	case Throttled:
		if rand.Float64() < throttledShare {
			g.Spoiled.Add(1)
			w.Header().Set("Retry-After", "1")
			http.Error(w, "too many requests", http.StatusTooManyRequests)
			return
		}
	case Broken:
		if rand.Float64() < brokenShare {
			g.Spoiled.Add(1)
			if rand.IntN(2) == 0 && r.Method != http.MethodGet {
				g.forward(blackhole{http.Header{}}, r)
			}
			codes := []int{http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout}
			http.Error(w, "broken", codes[rand.IntN(len(codes))])
			return
		}
	}
	g.forward(w, r)
}

// awaitUnheld waits while requests are held, and reports whether the client still does.
func (g *Gate) awaitUnheld(ctx context.Context) bool {
	for {
		g.mu.Lock()
		changed := g.changed
		g.mu.Unlock()
		if Weather(g.weather.Load()) != Held {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-changed:
		}
	}
}

// forward passes the request on and, when it is a write, tells of it.
func (g *Gate) forward(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet {
		g.proxy.ServeHTTP(w, r)
		return
	}
	seen := &statusWriter{ResponseWriter: w}
	write := Write{Bridge: g.bridge, Method: r.Method, Path: r.URL.Path, Term: g.term.Load(), Call: time.Now()}
	defer func() {
		write.Code, write.End = seen.code, time.Now()
		g.onWrite(write)
	}()
	g.proxy.ServeHTTP(seen, r)
}

// answered looks at the API server's answers: expired watches, and the lease.
func (g *Gate) answered(resp *http.Response) error {
	r := resp.Request
	if resp.StatusCode == http.StatusGone {
		g.Expired.Add(1)
	}
	if watches(r) {
		resp.Body = &watchBody{ReadCloser: resp.Body, gate: g}
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
	if l, ok := obj.(*coordinationv1.Lease); ok && l.Spec.LeaseTransitions != nil && l.Spec.HolderIdentity != nil && *l.Spec.HolderIdentity == g.bridge {
		g.term.Store(g.race.won(g.bridge, *l.Spec.LeaseTransitions))
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

// blackhole takes an answer that nobody will see.
type blackhole struct{ header http.Header }

func (b blackhole) Header() http.Header         { return b.header }
func (b blackhole) Write(p []byte) (int, error) { return len(p), nil }
func (b blackhole) WriteHeader(int)             {}

// watchBody notices an expired watch, an event of type ERROR whose status is 410, and
// ends in order when requests are held.
type watchBody struct {
	io.ReadCloser
	gate *Gate
	told bool
}

var gone = []byte(strconv.Itoa(http.StatusGone))

func (b *watchBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if !b.told && bytes.Contains(p[:n], []byte(`ERROR`)) && (bytes.Contains(p[:n], gone) || bytes.Contains(p[:n], []byte("Expired"))) {
		b.told = true
		b.gate.Expired.Add(1)
	}
	if err != nil && Weather(b.gate.weather.Load()) == Held {
		err = io.EOF
	}
	return n, err
}
