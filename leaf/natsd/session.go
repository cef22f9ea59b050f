package natsd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
)

// ErrHub reports that the hub cannot be reached, or does not let the gateway in.
var ErrHub = errors.New("the hub")

// ErrEnded is an ErrHub that reports that the hub has ended a connection that it had let in.
var ErrEnded = fmt.Errorf("%w has ended the connection", ErrHub)

// HubConfig is how a Session connects.
type HubConfig struct {
	// URL is the hub's leaf listener: tls:// or wss://, or plain on a loopback address.
	URL *url.URL
	// Site is the name of the site.
	Site string
	// Gateway is the gateway's public key, "U…". The hub ends a connection of the same gateway for
	// a new one, which it may not have noticed to be gone, and keeps those of others.
	Gateway string
	// Proxy is an HTTP proxy on the way, with its user and password; nil if there is none.
	Proxy *url.URL
	// Authorities verify the hub's certificate; none: those that the system knows.
	Authorities []*x509.Certificate
	// JWT and Sign authenticate.
	JWT  string
	Sign func([]byte) ([]byte, error)
	// Settle is how long the hub may refuse before DialHub gives up: it may just be storing the
	// account.
	Settle time.Duration
}

// Session is a connection to the hub that stores nothing and lets nobody in: it asks, as a site
// would, and ends. Use DialHub.
type Session struct {
	server *server.Server
	conn   *nats.Conn
	seen   *refusals
}

// DialHub connects to the hub as a leaf node, so that it needs the same port and the same proxies
// as the leaf does later. It tries until ctx ends, except that it gives up early if the hub does
// not let the gateway in or cannot be verified. The error, an ErrHub, has what the server has said
// last.
func DialHub(ctx context.Context, cfg HubConfig) (*Session, error) {
	remote := &server.RemoteLeafOpts{
		URLs: []*url.URL{cfg.URL}, TLS: wantsTLS(cfg.URL),
		SignatureCB: func(nonce []byte) (string, []byte, error) {
			sig, err := cfg.Sign(nonce)
			return cfg.JWT, sig, err
		},
		TLSTimeout: 10, DialTimeout: 10 * time.Second, FirstInfoTimeout: 10 * time.Second,
	}
	remote.Websocket.Compression = true // as in leaf.conf
	if wantsTLS(cfg.URL) {
		remote.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		if len(cfg.Authorities) > 0 {
			remote.TLSConfig.RootCAs = x509.NewCertPool()
			for _, c := range cfg.Authorities {
				remote.TLSConfig.RootCAs.AddCert(c)
			}
		}
	}
	if cfg.Proxy != nil {
		remote.Proxy.URL, remote.Proxy.Timeout = (&url.URL{Scheme: cfg.Proxy.Scheme, Host: cfg.Proxy.Host}).String(), 20*time.Second
		remote.Proxy.Username = cfg.Proxy.User.Username()
		remote.Proxy.Password, _ = cfg.Proxy.User.Password()
	}
	if errs := checkRemotes([]*server.RemoteLeafOpts{remote}); len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	opts := &server.Options{
		ServerName: cfg.serverName(), DontListen: true, Host: "127.0.0.1", NoSigs: true, NoSystemAccount: true,
		ConnectErrorReports: 1, ReconnectErrorReports: 1,
	}
	opts.LeafNode.Remotes = []*server.RemoteLeafOpts{remote}
	opts.LeafNode.ReconnectInterval = 500 * time.Millisecond
	if cfg.Proxy != nil {
		names := openAddresses("", zap.NewNop())
		names.proxied.Store(true)
		if err := setResolver(opts, names); err != nil {
			return nil, err
		}
	}
	started, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("prepare the connection to the hub: %w", err)
	}
	s := &Session{server: started, seen: &refusals{settle: cfg.Settle}}
	started.SetLoggerV2(s.seen, false, false, false)
	started.Start()
	if err := s.open(ctx, cfg); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// serverName returns the name by which the hub recognizes a gateway that returns. The end of the
// key is enough for that; a slow line has to carry the whole name.
func (cfg HubConfig) serverName() string {
	return cfg.Site + "-join-" + cfg.Gateway[max(0, len(cfg.Gateway)-8):]
}

func (s *Session) open(ctx context.Context, cfg HubConfig) error {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for !s.admitted() {
		if err := s.seen.final(); err != nil {
			return fmt.Errorf("%w at %s: %w", ErrHub, cfg.URL.Redacted(), err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w at %s does not answer: %w", ErrHub, cfg.URL.Redacted(), s.seen.last(ctx.Err()))
		case <-ticker.C:
		}
	}
	conn, err := nats.Connect("", nats.InProcessServer(s.server), inbox(cfg.Site), nats.Name("petiole-join"))
	if err != nil {
		return fmt.Errorf("connect in process: %w", err)
	}
	s.conn = conn
	return nil
}

// admitted reports whether the hub has let the session in. The connection exists before that; then
// the hub sends what it has subscribers for.
func (s *Session) admitted() bool {
	z, err := s.server.Leafz(nil)
	return err == nil && len(z.Leafs) > 0 && z.Leafs[0].NumSubs > 0
}

// Request sends a request to the bridge and returns its answer. While nobody answers it tries
// again, until ctx ends.
func (s *Session) Request(ctx context.Context, subject string, data []byte) ([]byte, error) {
	for {
		one, cancel := context.WithTimeout(ctx, 5*time.Second)
		m, err := s.conn.RequestWithContext(one, subject, data)
		cancel()
		if err == nil {
			return m.Data, nil
		}
		if refused := s.seen.final(); refused != nil {
			return nil, fmt.Errorf("%w: %w", ErrEnded, refused)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w does not pass the request on to a bridge: %w", ErrHub, err)
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// Close ends the connection.
func (s *Session) Close() {
	if s.conn != nil {
		s.conn.Close()
	}
	s.server.Shutdown()
	s.server.WaitForShutdown()
}

// refusals remembers why the server is not connected to the hub, which only its log says. It is
// its logger.
type refusals struct {
	settle time.Duration

	mu    sync.Mutex
	why   hubError
	since time.Time // of the first refusal in a row
}

// What nats-server says when trying again does not help, or only while the hub stores the account.
var finalErrors = []string{
	"Authorization Violation", "Authentication Expired", "maximum", "x509:", "tls:",
	"proxy CONNECT failed: 4",
}

func (r *refusals) Errorf(format string, v ...any) {
	line := explain(format, v)
	r.mu.Lock()
	defer r.mu.Unlock()
	final := slices.ContainsFunc(finalErrors, func(part string) bool { return strings.Contains(strings.ToLower(line.text), strings.ToLower(part)) })
	if final && r.since.IsZero() {
		r.since = time.Now()
	}
	if final || r.since.IsZero() {
		r.why = line
	}
}

func (r *refusals) Warnf(format string, v ...any)  { r.Errorf(format, v...) }
func (r *refusals) Fatalf(format string, v ...any) { r.Errorf(format, v...) }
func (*refusals) Noticef(string, ...any)           {}
func (*refusals) Debugf(string, ...any)            {}
func (*refusals) Tracef(string, ...any)            {}

// final returns why trying again does not help, or nil.
func (r *refusals) final() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.since.IsZero() {
		return nil
	}
	certificate := strings.Contains(r.why.text, "x509:") || strings.Contains(r.why.text, "tls:")
	if !certificate && time.Since(r.since) < r.settle {
		return nil
	}
	return r.why
}

// last returns what the server has said last, or err.
func (r *refusals) last(err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.why.text == "" {
		return err
	}
	return r.why
}
