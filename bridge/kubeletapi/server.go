package kubeletapi

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	certutil "k8s.io/client-go/util/cert"

	"github.com/petiole-io/petiole/streams/tunnel"
)

const (
	// shutdownTime is how long requests may go on after the end of Run.
	shutdownTime = 2 * time.Second
	// idleTime is how long an unused connection to a kubelet is kept, idlePerNode how many.
	idleTime, idlePerNode = 10 * time.Second, 4
)

// Config is what a Server needs.
type Config struct {
	// Listen is host:port.
	Listen string
	// CertFile and KeyFile are the serving certificate, which is read again when it is replaced;
	// without them it is one that nobody can verify.
	CertFile, KeyFile string
	// ClientCAFile verifies the clients' certificates; if it is empty, the authority that the API
	// server publishes for that.
	ClientCAFile string
	// Client asks the API server about nodes, pods, tokens and rights.
	Client kubernetes.Interface
	Tunnel *tunnel.Dialer
	Log    *zap.Logger
}

// Server serves the kubelets' API. Use New.
type Server struct {
	cfg       Config
	access    *access
	transport *http.Transport
}

// New returns a server that has not started.
func New(cfg Config) (*Server, error) {
	a, err := newAccess(cfg.Client, cfg.ClientCAFile)
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, access: a}
	s.transport = &http.Transport{
		DialContext:        s.dial,
		DisableCompression: true, IdleConnTimeout: idleTime, MaxIdleConnsPerHost: idlePerNode,
	}
	return s, nil
}

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	cfg, err := s.tls()
	if err != nil {
		return fmt.Errorf("kubelet API: %w", err)
	}
	l, err := net.Listen("tcp", s.cfg.Listen)
	if err != nil {
		return fmt.Errorf("kubelet API: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	server := &http.Server{
		Handler: s, TLSConfig: cfg, ReadHeaderTimeout: 30 * time.Second, ErrorLog: zap.NewStdLog(s.cfg.Log.WithOptions(zap.IncreaseLevel(zap.ErrorLevel))),
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	g.Go(func() error { s.access.run(ctx); return nil })
	g.Go(func() error {
		if err := server.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("kubelet API: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		// Sessions end with ctx, which is the base of every request.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			return server.Close()
		}
		return nil
	})
	s.cfg.Log.Info("kubelet API ready", zap.String("address", l.Addr().String()))
	err = g.Wait()
	s.transport.CloseIdleConnections()
	return err
}

// tls returns the configuration of the listener. Whether a client has a certificate is for the
// authenticators.
func (s *Server) tls() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ClientAuth: tls.RequestClientCert}
	if s.cfg.CertFile != "" {
		read := func() (*tls.Certificate, error) {
			c, err := tls.LoadX509KeyPair(s.cfg.CertFile, s.cfg.KeyFile)
			return &c, err
		}
		if _, err := read(); err != nil {
			return nil, err
		}
		cfg.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return read() }
		return cfg, nil
	}
	s.cfg.Log.Warn("the serving certificate of the kubelet API is signed by nobody: an API server with --kubelet-certificate-authority refuses it; set kubeletAPI.certFile")
	certPEM, keyPEM, err := certutil.GenerateSelfSignedCertKey("petiole-bridge", nil, nil)
	if err != nil {
		return nil, err
	}
	c, err := tls.X509KeyPair(certPEM, keyPEM)
	cfg.Certificates = []tls.Certificate{c}
	return cfg, err
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	user, ok := s.access.authenticate(w, r)
	if !ok {
		return
	}
	t, err := TargetOf(r)
	if err == nil && t.Node == "" {
		t.Node, err = s.nodeOf(r.Context(), t)
		if err == nil && t.Proxied != "" && t.Proxied != t.Node {
			err = &statusError{http.StatusNotFound, fmt.Sprintf("pod %s/%s is not on node %q", t.Namespace, t.Pod, t.Proxied)}
		}
	}
	var n *node
	if err == nil {
		n, err = s.node(r.Context(), t.Node)
	}
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	if !s.access.authorize(w, r, user, t) {
		return
	}
	s.forward(w, r, t, n)
}

// forward passes a request to the kubelet, and its answer back. Upgraded connections are copied.
func (s *Server) forward(w http.ResponseWriter, r *http.Request, t Target, n *node) {
	proxy := httputil.ReverseProxy{
		Transport: s.transport, FlushInterval: -1, ErrorLog: zap.NewStdLog(s.cfg.Log.WithOptions(zap.IncreaseLevel(zap.ErrorLevel))),
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host = "http", n.host()
			p.Out.URL.Path, p.Out.URL.RawPath = t.Path, ""
			// The credentials were for this server.
			p.Out.Header.Del("Authorization")
		},
		ModifyResponse: func(answer *http.Response) error {
			if strings.HasPrefix(t.Path, "/containerLogs/") && answer.StatusCode == http.StatusOK {
				answer.Body = &logBody{ReadCloser: answer.Body, node: n}
			}
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			s.refuse(w, r, n.explain(r.Context(), s, err))
		},
	}
	proxy.ServeHTTP(w, r)
}

// dial opens a session for a connection of the transport.
func (s *Server) dial(ctx context.Context, _, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	site, name, _ := strings.Cut(host, ".")
	return s.cfg.Tunnel.Dial(ctx, site, name)
}

// refuse answers a request that does not reach a kubelet. kubectl shows the text of a status 500,
// but not that of a 503.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	status := http.StatusInternalServerError
	var known *statusError
	if errors.As(err, &known) {
		status = known.code
	}
	if r.Context().Err() == nil {
		s.cfg.Log.Info("request for a kubelet refused", zap.String("path", r.URL.Path), zap.Int("status", status), zap.Error(err))
	}
	http.Error(w, err.Error(), status)
}

// statusError is an error with the status of its answer.
type statusError struct {
	code int
	text string
}

func (e *statusError) Error() string { return e.text }
