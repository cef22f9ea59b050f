package nodeapi

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// DefaultVersion is the Kubernetes version that /version reports when Config names
// none.
const DefaultVersion = "v1.37.2"

// shutdownWait bounds the wait for answers that are under way when Run ends.
const shutdownWait = 2 * time.Second

// Config says what a node API serves. Every field is required unless a default is
// named.
type Config struct {
	// Site is the site's id, Node the name of the node that writes here.
	Site, Node string
	// JS is the leaf's own JetStream, with the streams of streams.LeafStreams.
	JS jetstream.JetStream
	// DataDir holds the identity, the encrypted tokens and the reserved resource
	// versions. It is made with mode 0700 when it is missing.
	DataDir string
	// Listen is the loopback address, such as 127.0.0.1:10441. Port 0 picks one.
	Listen string
	Log    *zap.Logger
	// Ask asks the bridge for tokens; default the connection of JS.
	Ask Asker
	// Version is what /version reports; default DefaultVersion.
	Version string
}

// API is a node API. Its methods are safe for concurrent use.
type API struct {
	cfg        Config
	log        *zap.Logger
	locks      locks
	events     eventQueue
	heartbeats heartbeats
	progress   *progress
	ready      chan struct{}
	closing    chan struct{}
	// inflight is held for reading by every request that is being answered.
	inflight sync.RWMutex

	// Guarded by mu until Run has set them.
	mu   sync.Mutex
	id   *identity
	addr string

	store   *store
	vault   *vault
	nudger  *nudger
	janitor *janitor
}

// New makes a node API. It does no I/O.
func New(cfg Config) *API {
	if cfg.Version == "" {
		cfg.Version = DefaultVersion
	}
	return &API{
		cfg: cfg, log: cfg.Log.With(zap.String("site", cfg.Site), zap.String("node", cfg.Node)),
		progress: newProgress(), ready: make(chan struct{}), closing: make(chan struct{}), addr: cfg.Listen,
	}
}

// Ready is closed when the API answers: all that is on disk is served from then on.
func (a *API) Ready() <-chan struct{} { return a.ready }

// Run loads what is on disk, serves and follows it until ctx ends, and returns after
// all that it started has stopped. It can be called once. An error means that the
// node API could not start or its listener broke; a stream that fails later is
// retried.
func (a *API) Run(ctx context.Context) error {
	ln, err := a.start(ctx)
	if err != nil {
		return fmt.Errorf("start node API: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	server := a.server(ctx)
	g.Go(func() error {
		if err := server.ServeTLS(ln, "", ""); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve node API: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		return a.drain(server)
	})
	g.Go(func() error { return a.follow(ctx) })
	g.Go(func() error { return a.nudger.run(ctx) })
	g.Go(func() error { return a.janitor.run(ctx) })
	a.log.Info("node API ready", zap.String("address", a.address()), zap.Uint64("seq", a.Applied()))
	close(a.ready)
	return g.Wait()
}

// drain ends the watches, lets the answers that are under way finish, and closes the
// connections. Shutdown of net/http would give idle HTTP/2 connections a second of
// grace, which the kubelet does not need.
func (a *API) drain(server *http.Server) error {
	close(a.closing)
	idle := make(chan struct{})
	go func() {
		a.inflight.Lock()
		defer a.inflight.Unlock()
		close(idle)
	}()
	select {
	case <-idle:
	case <-time.After(shutdownWait):
	}
	err := server.Close()
	<-idle
	return err
}

// start does all that may fail before anything runs.
func (a *API) start(ctx context.Context) (net.Listener, error) {
	if _, err := a.identity(); err != nil {
		return nil, err
	}
	first, err := firstRevision(a.cfg.DataDir, time.Now())
	if err != nil {
		return nil, err
	}
	vault, unreadable, err := openVault(a.cfg.DataDir)
	if err != nil {
		return nil, err
	}
	if len(unreadable) > 0 {
		a.log.Warn("removed unreadable tokens", zap.Int("count", len(unreadable)))
	}
	a.vault = vault
	a.store = newStore(first)
	a.nudger = newNudger(a.store, a.cfg.Node, a.log)
	a.janitor = &janitor{api: a, woken: make(chan struct{}, 1)}
	if err := a.load(ctx); err != nil {
		return nil, err
	}
	a.store.loaded(func(r resource, kind watch.EventType, o *object) {
		a.heartbeats.observe(r, kind, o)
		a.nudger.observe(r, kind, o)
		a.janitor.observe(r, kind, o)
	})
	ln, err := net.Listen("tcp", a.cfg.Listen)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	a.addr = ln.Addr().String()
	a.mu.Unlock()
	return ln, nil
}

func (a *API) server(ctx context.Context) *http.Server {
	return &http.Server{
		Handler: a, ReadHeaderTimeout: 10 * time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx },
		TLSConfig:   &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{a.id.cert}},
		// A kubelet has a watch open for every ConfigMap and Secret of its pods.
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 2000},
		// Handshakes that clients give up are no news.
		ErrorLog: log.New(zapDebug{a.log}, "", 0),
	}
}

type zapDebug struct{ log *zap.Logger }

func (z zapDebug) Write(b []byte) (int, error) {
	z.log.Debug("http server", zap.ByteString("message", b))
	return len(b), nil
}

func (a *API) identity() (*identity, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.id != nil {
		return a.id, nil
	}
	id, err := loadIdentity(a.cfg.DataDir, a.cfg.Node)
	if err != nil {
		return nil, err
	}
	a.id = id
	return id, nil
}

func (a *API) address() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.addr
}

// URL is where the API is served. With port 0 in Config.Listen it is known after
// Ready.
func (a *API) URL() string { return "https://" + a.address() }

// Token is the bearer token of system:node:<node>, which the kubelet presents here,
// and with which the leaf may call the kubelet when that asks here who calls. It is
// made on first use.
func (a *API) Token() (string, error) {
	id, err := a.identity()
	if err != nil {
		return "", err
	}
	return id.token, nil
}

// WriteKubeconfig writes a kubeconfig with the node's token and the API's authority,
// for the kubelet or for kubectl; user is the name it gets there. The file has mode
// 0600. It may be called before Run unless Config.Listen has port 0.
func (a *API) WriteKubeconfig(path, user string) error {
	id, err := a.identity()
	if err != nil {
		return err
	}
	cfg := clientcmdapi.NewConfig()
	cfg.Clusters[a.cfg.Site] = &clientcmdapi.Cluster{Server: a.URL(), CertificateAuthorityData: id.caPEM}
	cfg.AuthInfos[user] = &clientcmdapi.AuthInfo{Token: id.token}
	cfg.Contexts[a.cfg.Site] = &clientcmdapi.Context{Cluster: a.cfg.Site, AuthInfo: user}
	cfg.CurrentContext = a.cfg.Site
	data, err := clientcmd.Write(*cfg)
	if err != nil {
		return fmt.Errorf("encode kubeconfig: %w", err)
	}
	if err := writeFile(path, data); err != nil {
		return fmt.Errorf("write kubeconfig %s: %w", path, err)
	}
	return nil
}

// resource is a built-in resource.
func (s *store) resource(gr schema.GroupResource) resource {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.catalog[gr]
}

// revision is the last resource version given out.
func (s *store) revision() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.rv
}
