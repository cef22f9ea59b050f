package nodeapi

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilwait "k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/petiole-io/petiole/internal/durable"
	"github.com/petiole-io/petiole/internal/logonce"
	"github.com/petiole-io/petiole/leaf/apply"
	"github.com/petiole-io/petiole/leaf/nodeapi/access"
	"github.com/petiole-io/petiole/leaf/nodeapi/catalog"
	"github.com/petiole-io/petiole/leaf/nodeapi/identity"
	"github.com/petiole-io/petiole/leaf/nodeapi/local"
	"github.com/petiole-io/petiole/leaf/nodeapi/objects"
	"github.com/petiole-io/petiole/leaf/nodeapi/tokens"
	"github.com/petiole-io/petiole/streams"
)

// DefaultVersion is the Kubernetes version that /version reports if Config.Version is empty.
const DefaultVersion = "v1.37.2"

// maxUnapplied is the number of messages that may wait to be delivered again; they do not
// hold up the others.
const maxUnapplied = 256

// loadRetry is the time between two attempts to read the state on disk.
const loadRetry = time.Second

// offlineAfter is for how long the link has to be down until pods are served as for a site without
// one: connections that are replaced change nothing.
const offlineAfter = 5 * time.Second

// shutdownWait is the time for which Run waits for requests in progress when it ends.
const shutdownWait = 2 * time.Second

// Config configures a node API. A field is required unless its comment gives a default.
type Config struct {
	// Site is the id of the site, Node the name of the node that uses the API.
	Site, Node string
	// JS is the leaf's own JetStream, with the streams of streams.LeafStreams.
	JS jetstream.JetStream
	// DataDir holds the identity, the encrypted tokens and the reserved resource versions. It
	// is created with mode 0700 if it does not exist.
	DataDir string
	// TokenKey encrypts the stored tokens; default a key in DataDir.
	TokenKey []byte
	// Listen is the loopback address, such as 127.0.0.1:10441. Port 0 selects a free port.
	Listen string
	// ListenPods is the address at which pods reach the API with the tokens of their service
	// accounts; a link-local one is added to the loopback interface. The service default/kubernetes
	// leads there at this site. The zero value: pods are not served.
	ListenPods netip.AddrPort
	Log        *zap.Logger
	// Requester sends requests for tokens to the bridge; default the connection of JS.
	Requester tokens.Requester
	// DialKubelet connects to the kubelet of this node, for logs and commands of pods; default
	// none, and they are refused.
	DialKubelet func(context.Context) (net.Conn, error)
	// Link is the site's link to the hub; default one that is always up.
	Link Link
	// StatusInterval is how long a node's status is not reported again while only the times of
	// its conditions change; default 1 h. The node's lease shows that its kubelet works.
	StatusInterval time.Duration
	// Behind returns how far the wall clock, by which the kubelet judges a token, is behind the
	// right one; default 0.
	Behind func() time.Duration
	// ClockRight reports whether the wall clock is right; default that it is.
	ClockRight func() bool
	// Version is what /version reports; default DefaultVersion.
	Version string
}

// Link knows whether the site is connected to the hub. *link.Link implements it.
type Link interface {
	// State returns whether the link is up, since when, and a channel that is closed at the next
	// change.
	State() (up bool, since time.Time, changed <-chan struct{})
}

// API is a node API. Its methods are safe for concurrent use.
type API struct {
	cfg        Config
	log        *zap.Logger
	heartbeats heartbeats
	desired    *apply.Applier
	ready      chan struct{}

	// Guarded by mu until Run has set them.
	mu   sync.Mutex
	id   *identity.Credentials
	addr string

	store   *objects.Store
	local   *local.Store
	handler *handler
	pods    *podServer
	resync  *resyncTrigger
}

// podServer is what serves the pods.
type podServer struct {
	handler   http.Handler
	listener  net.Listener
	authority *identity.Authority
	tls       *tls.Config
}

// New returns a node API. It does no I/O.
func New(cfg Config) *API {
	if cfg.Version == "" {
		cfg.Version = DefaultVersion
	}
	if cfg.Requester == nil {
		cfg.Requester = cfg.JS.Conn()
	}
	if cfg.Behind == nil {
		cfg.Behind = func() time.Duration { return 0 }
	}
	if cfg.ClockRight == nil {
		cfg.ClockRight = func() bool { return true }
	}
	cfg.StatusInterval = cmp.Or(cfg.StatusInterval, time.Hour)
	log := cfg.Log.With(zap.String("site", cfg.Site), zap.String("node", cfg.Node))
	a := &API{
		cfg: cfg, log: log,
		ready: make(chan struct{}), addr: cfg.Listen,
	}
	a.desired = apply.New(apply.Config{
		JS: cfg.JS, Log: log, Consumer: streams.LocalConsumer(streams.ApplyConsumer, "what the node API has applied", maxUnapplied),
		Apply: func(_ context.Context, m streams.Message) error { return a.store.Apply(m) },
	})
	return a
}

// Applied returns the sequence of SITE_DESIRED up to which every message has been applied,
// 0 before the first. It is safe for concurrent use.
func (a *API) Applied() uint64 {
	seq, _ := a.desired.Position()
	return seq
}

// AppliedSource returns the same position as a sequence of the hub's stream DESIRED, 0 if it
// is unknown. It is safe for concurrent use.
func (a *API) AppliedSource() uint64 {
	_, source := a.desired.Position()
	return source
}

// Quarantined returns the number of messages that could not be read since the start,
// including those that are still in SITE_DESIRED. It is safe for concurrent use.
func (a *API) Quarantined() uint64 { return a.desired.Unreadable() }

// Ready returns a channel that is closed when the API serves everything that is on disk.
func (a *API) Ready() <-chan struct{} { return a.ready }

// Run loads the state from disk, serves it and applies new messages until ctx ends. It
// returns after everything that it started has stopped, and may be called once. It returns
// an error if the node API cannot start or its listener fails. A stream that cannot be read is
// tried again.
func (a *API) Run(ctx context.Context) error {
	ln, err := a.start(ctx)
	if err != nil && ctx.Err() != nil {
		return nil // stopped during the start: the error follows from that
	}
	if err != nil {
		return fmt.Errorf("start node API: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	servers := []*http.Server{a.server(ctx, a.handler, &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{a.id.Cert}})}
	listeners := []net.Listener{ln}
	if a.pods != nil {
		servers = append(servers, a.server(ctx, a.pods.handler, a.pods.tls))
		listeners = append(listeners, a.pods.listener)
	}
	for i, server := range servers {
		g.Go(func() error {
			if err := server.ServeTLS(listeners[i], "", ""); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve node API: %w", err)
			}
			return nil
		})
	}
	g.Go(func() error {
		<-ctx.Done()
		return a.drain(servers)
	})
	g.Go(func() error { return a.desired.Run(ctx) })
	g.Go(func() error { return a.resync.run(ctx) })
	g.Go(func() error { return a.local.Run(ctx) })
	g.Go(func() error { return a.followLink(ctx) })
	a.log.Info("node API ready", zap.String("address", a.address()), zap.Uint64("seq", a.Applied()))
	close(a.ready)
	return g.Wait()
}

// followLink tells the store whether the site has a link, until ctx ends.
func (a *API) followLink(ctx context.Context) error {
	if a.cfg.Link == nil {
		return nil
	}
	for {
		up, since, changed := a.cfg.Link.State()
		var due <-chan time.Time
		switch wait := time.Until(since.Add(offlineAfter)); {
		case !up && wait > 0:
			due = time.After(wait)
		default:
			if err := a.store.SetOffline(!up); err != nil {
				a.log.Error("serve pods as for a site without a link", zap.Bool("up", up), zap.Error(err))
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-due:
		}
	}
}

// drain ends the watches, waits for the requests in progress, and closes the connections.
// Shutdown of net/http would wait a second for idle HTTP/2 connections, which the kubelet
// does not need.
func (a *API) drain(servers []*http.Server) error {
	close(a.handler.closing)
	idle := make(chan struct{})
	go func() {
		a.handler.inflight.Lock()
		defer a.handler.inflight.Unlock()
		close(idle)
	}()
	select {
	case <-idle:
	case <-time.After(shutdownWait):
	}
	var errs []error
	for _, s := range servers {
		errs = append(errs, s.Close())
	}
	<-idle
	if a.handler.kubelet != nil {
		a.handler.kubelet.transport.CloseIdleConnections()
	}
	return errors.Join(errs...)
}

// start does everything that can fail before a goroutine runs.
func (a *API) start(ctx context.Context) (_ net.Listener, err error) {
	if _, err := a.credentials(); err != nil {
		return nil, err
	}
	first, err := firstRevision(a.cfg.DataDir, time.Now())
	if err != nil {
		return nil, err
	}
	cache, unreadable, err := identity.OpenTokenCache(a.cfg.DataDir, a.cfg.TokenKey)
	if err != nil {
		return nil, err
	}
	if len(unreadable) > 0 {
		a.log.Warn("unreadable tokens removed: pods get new ones when the cloud is reachable", zap.Int("count", len(unreadable)))
	}
	pods, err := a.listenForPods(ctx)
	if err != nil {
		// The node works without it.
		a.log.Error("pods cannot reach the API of this node: see nodeAPI.pods of leaf.yaml", zap.Stringer("address", a.cfg.ListenPods), zap.Error(err))
	}
	defer func() {
		if err != nil && a.pods != nil {
			err = errors.Join(err, a.pods.listener.Close())
		}
	}()
	a.store = objects.New(first, catalog.Builtins(), pods)
	if a.cfg.Link != nil {
		if up, _, _ := a.cfg.Link.State(); !up {
			if err := a.store.SetOffline(true); err != nil {
				return nil, err
			}
		}
	}
	a.resync = newResyncTrigger(a.store, a.cfg.Node, a.log)
	a.local = local.New(local.Config{Node: a.cfg.Node, JS: a.cfg.JS, Objects: a.store, Tokens: cache, ClockRight: a.cfg.ClockRight, Log: a.log})
	if err := a.load(ctx); err != nil {
		return nil, err
	}
	// They only note the change: the store's lock is held.
	a.store.StartHistory(func(gr schema.GroupResource, kind watch.EventType, o *objects.Object) {
		a.heartbeats.observe(gr, kind, o)
		a.resync.observe(gr, kind, o)
		a.local.Observe(gr, kind)
	})
	ln, err := net.Listen("tcp", a.cfg.Listen)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	a.addr = ln.Addr().String()
	a.mu.Unlock()
	a.handler = &handler{
		node: a.cfg.Node, statusInterval: a.cfg.StatusInterval, server: catalog.Server{Version: a.cfg.Version, Address: ln.Addr().String()}, token: a.id.Token, store: a.store, local: a.local, log: a.log,
		credentials: credentials{node: a.cfg.Node, store: a.store, issuer: tokens.New(tokens.Config{
			Site: a.cfg.Site, Node: a.cfg.Node, Requester: a.cfg.Requester, Cache: cache, Behind: a.cfg.Behind, Log: a.log,
		})},
		kubelet: newKubelet(a.cfg.DialKubelet, a.log),
		closing: make(chan struct{}),
	}
	if a.pods != nil {
		certificates := &access.Certificates{Authority: a.pods.authority, Address: a.pods.listener.Addr().(*net.TCPAddr).IP, Objects: a.store}
		a.pods.tls = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: certificates.Get}
		a.pods.handler = &podHandler{handler: a.handler, access: &access.Access{Objects: a.store, Tokens: cache, Behind: a.cfg.Behind}}
	}
	return ln, nil
}

// load reads what is on disk, and tries again until ctx ends: a server that is busy or is being
// restarted answers later, and without the node API the containers of the node have no kubelet.
func (a *API) load(ctx context.Context) error {
	failures := logonce.New(a.log)
	for _, read := range []func(context.Context) error{a.local.Load, a.desired.Load} {
		err := utilwait.PollUntilContextCancel(ctx, loadRetry, true, func(ctx context.Context) (bool, error) {
			err := read(ctx)
			if ctx.Err() == nil {
				failures.Report("read the state of the site", err)
			}
			return err == nil, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// listenForPods opens the listener for pods, if there is one, before the store is loaded: its objects
// have the address. A pod that connects meanwhile waits.
func (a *API) listenForPods(ctx context.Context) (objects.PodAccess, error) {
	if !a.cfg.ListenPods.IsValid() {
		return objects.PodAccess{}, nil
	}
	authority, err := identity.LoadAuthority(a.cfg.DataDir, a.cfg.Node)
	if err != nil {
		return objects.PodAccess{}, err
	}
	ln, err := access.Listen(ctx, a.cfg.ListenPods)
	if err != nil {
		return objects.PodAccess{}, err
	}
	a.pods = &podServer{listener: ln, authority: authority}
	return objects.PodAccess{Address: ln.Addr().(*net.TCPAddr).AddrPort(), CAPEM: authority.PEM}, nil
}

func (a *API) server(ctx context.Context, h http.Handler, config *tls.Config) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx },
		TLSConfig:   config,
		// A kubelet watches every ConfigMap and Secret of its pods.
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 2000},
		// Aborted handshakes are logged at the debug level.
		ErrorLog: log.New(zapDebug{a.log}, "", 0),
	}
}

type zapDebug struct{ log *zap.Logger }

func (z zapDebug) Write(b []byte) (int, error) {
	z.log.Debug("http server", zap.ByteString("message", b))
	return len(b), nil
}

func (a *API) credentials() (*identity.Credentials, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.id != nil {
		return a.id, nil
	}
	id, err := identity.Load(a.cfg.DataDir, a.cfg.Node)
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

// URL returns the URL of the API. If Config.Listen has port 0 it is valid after Ready only.
func (a *API) URL() string { return "https://" + a.address() }

// Token returns the bearer token of system:node:<node>. The kubelet presents it to the API,
// and the leaf to the kubelet, which has it verified by the API. It is created on first use.
func (a *API) Token() (string, error) {
	id, err := a.credentials()
	if err != nil {
		return "", err
	}
	return id.Token, nil
}

// WriteKubeconfig writes a kubeconfig with the node's token and the API's certificate
// authority, for the kubelet or for kubectl. user is the name of the user in it. The file has
// mode 0600; one that is up to date stays, so that a leaf starts on a full disk. WriteKubeconfig may be
// called before Run unless Config.Listen has port 0.
func (a *API) WriteKubeconfig(path, user string) error {
	id, err := a.credentials()
	if err != nil {
		return err
	}
	cfg := clientcmdapi.NewConfig()
	cfg.Clusters[a.cfg.Site] = &clientcmdapi.Cluster{Server: a.URL(), CertificateAuthorityData: id.CAPEM}
	cfg.AuthInfos[user] = &clientcmdapi.AuthInfo{Token: id.Token}
	cfg.Contexts[a.cfg.Site] = &clientcmdapi.Context{Cluster: a.cfg.Site, AuthInfo: user}
	cfg.CurrentContext = a.cfg.Site
	data, err := clientcmd.Write(*cfg)
	if err != nil {
		return fmt.Errorf("encode kubeconfig: %w", err)
	}
	if was, err := os.ReadFile(path); err == nil && bytes.Equal(was, data) {
		return nil
	}
	if err := durable.WriteFile(path, data, 0o600); err != nil {
		return fmt.Errorf("write kubeconfig %s: %w", path, err)
	}
	return nil
}
