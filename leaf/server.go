package leaf

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/leaf/credential"
	"github.com/petiole-io/petiole/leaf/filestore"
)

// startTimeout is how long the embedded server may take to recover its store.
const startTimeout = 60 * time.Second

// errNoServer is returned while the embedded server does not run.
var errNoServer = errors.New("the embedded nats-server is not running")

// embeddedServer runs the leaf node of the site in this process, from a stock nats-server
// configuration file, and can restart it in place: connections in process reconnect by
// themselves. It is safe for concurrent use.
type embeddedServer struct {
	configFile string
	// key authenticates the leaf at the server for the lifetime of this process.
	key nkeys.KeyPair
	log *zap.Logger

	// beforeConnections is called with a server that has just started, before anybody in this
	// process connects to it. It may be nil.
	beforeConnections func(context.Context, *server.Server)

	attempts attempts

	mu sync.Mutex
	s  *server.Server
	// remotes is the number of leaf connections that s should have, attemptInterval the longest
	// time between two attempts.
	remotes         int
	attemptInterval time.Duration
	// damaged are the streams that a check of the store found damaged, until takeDamaged is
	// called.
	damaged map[string]filestore.Damaged
	// lastSeqs are the last sequences of the streams when s started, before anybody connected.
	lastSeqs map[string]uint64
}

// startServer returns when the server accepts connections.
func startServer(ctx context.Context, configFile string, log *zap.Logger) (*embeddedServer, error) {
	key, err := nkeys.CreateUser()
	if err != nil {
		return nil, fmt.Errorf("create the leaf's nkey: %w", err)
	}
	h := &embeddedServer{configFile: configFile, key: key, log: log}
	return h, h.start(ctx)
}

func (h *embeddedServer) start(ctx context.Context) error {
	opts, err := server.ProcessConfigFile(h.configFile)
	if err != nil {
		return fmt.Errorf("nats.configFile: %w", err)
	}
	nkey, err := h.key.PublicKey()
	if err != nil {
		return fmt.Errorf("read the leaf's own nkey: %w", err)
	}
	if err := secure(opts, nkey); err != nil {
		return fmt.Errorf("nats.configFile %s: %w", h.configFile, err)
	}
	if err := moveDefaultAccount(opts); err != nil {
		return fmt.Errorf("take over the store of the default account: %w", err)
	}
	warnSharedAccount(opts, nkey, h.log)
	opts.NoSigs = true // the leaf handles signals
	if opts.JetStreamMaxStore <= 0 {
		// By itself the server takes what is free at its start for a limit, and would
		// stay full for ever when it was started on a full disk.
		opts.JetStreamMaxStore = server.JetStreamMaxStoreDefault
	}
	opts.ConnectErrorReports, opts.ReconnectErrorReports = 1, 1 // attempts are counted: see attempts
	if opts.StoreDir != "" {
		damaged, err := filestore.Check(ctx, filepath.Join(opts.StoreDir, server.JetStreamStoreDir), h.log.Named("store"))
		if err != nil {
			h.log.Warn("stored messages not checked", zap.Error(err))
		}
		h.addDamaged(damaged)
	}
	s, err := server.NewServer(opts)
	if err != nil {
		return fmt.Errorf("create nats-server of %s: %w", h.configFile, err)
	}
	s.SetLoggerV2(natsLogger{h.log.Named("nats").Sugar(), &h.attempts}, opts.Debug, opts.Trace, false)
	s.Start()
	deadline := time.Now().Add(startTimeout)
	for !s.ReadyForConnections(100 * time.Millisecond) {
		if ctx.Err() != nil || time.Now().After(deadline) {
			s.Shutdown()
			s.WaitForShutdown()
			return fmt.Errorf("start nats-server of %s: not ready within %s", h.configFile, startTimeout)
		}
	}
	if !s.JetStreamEnabled() {
		s.Shutdown()
		s.WaitForShutdown()
		return fmt.Errorf("start nats-server of %s: JetStream is not enabled; its configuration needs a jetstream block", h.configFile)
	}
	began := lastSequences(s)
	if h.beforeConnections != nil {
		h.beforeConnections(ctx, s)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.s, h.lastSeqs = s, began
	h.remotes, h.attemptInterval = len(opts.LeafNode.Remotes), attemptIntervalOf(opts)
	return nil
}

// attemptIntervalOf returns the longest time between two attempts to reach the hub.
func attemptIntervalOf(opts *server.Options) time.Duration {
	dial := opts.LeafNode.DialTimeout
	for _, r := range opts.LeafNode.Remotes {
		dial = max(dial, r.DialTimeout)
	}
	return 2*opts.LeafNode.ReconnectInterval + dial // the server adds up to as much again at random
}

// lastSequences returns the last sequence of each stream of a server by name, without the
// streams that the server does not report.
func lastSequences(s *server.Server) map[string]uint64 {
	out := map[string]uint64{}
	if s == nil {
		return out
	}
	z, err := s.Jsz(&server.JSzOptions{Accounts: true, Streams: true})
	if err != nil {
		return out
	}
	for _, a := range z.AccountDetails {
		for _, d := range a.Streams {
			out[d.Name] = d.State.LastSeq
		}
	}
	return out
}

// lastAtStart returns the last sequence of a stream when the running server started, before
// anybody in this process could store anything, and false if it is unknown.
func (h *embeddedServer) lastAtStart(stream string) (uint64, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	last, ok := h.lastSeqs[stream]
	return last, ok
}

func (h *embeddedServer) addDamaged(found []filestore.Damaged) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, d := range found {
		if h.damaged == nil {
			h.damaged = map[string]filestore.Damaged{}
		}
		h.damaged[d.Stream] = d
	}
}

// takeDamaged returns the streams, by name, that were found damaged before a start of the server
// and that it has not returned before.
func (h *embeddedServer) takeDamaged() map[string]filestore.Damaged {
	h.mu.Lock()
	defer h.mu.Unlock()
	found := h.damaged
	h.damaged = nil
	return found
}

// stop stops the server and waits until it has stopped.
func (h *embeddedServer) stop() {
	h.mu.Lock()
	s := h.s
	h.s = nil
	h.mu.Unlock()
	if s != nil {
		s.Shutdown()
		s.WaitForShutdown()
	}
}

// restart stops the server, calls between, and starts the server again even if between fails.
func (h *embeddedServer) restart(ctx context.Context, between func() error) error {
	h.stop()
	err := between()
	return errors.Join(err, h.start(ctx))
}

// server returns the running server, or nil if none runs.
func (h *embeddedServer) server() *server.Server {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.s
}

// storeDir returns the folder of JetStream.
func (h *embeddedServer) storeDir() string {
	if s := h.server(); s != nil {
		if c := s.JetStreamConfig(); c != nil {
			return c.StoreDir
		}
	}
	return ""
}

// streamCreationTime bounds how long the creation of a stream takes.
const streamCreationTime = time.Second

// storeError returns why JetStream does not store, or nil if it does. After a disk error a
// stream refuses every message until the server is restarted. What passes by itself is waited
// for, for streamCreationTime at most.
func (h *embeddedServer) storeError() error {
	for start := time.Now(); ; time.Sleep(streamCreationTime / 20) {
		s := h.server()
		if s == nil {
			return errNoServer
		}
		why := s.Healthz(nil).Error
		switch {
		case why == "":
			return nil
		case !passing(why) || time.Since(start) > streamCreationTime:
			return errors.New(why)
		}
	}
}

// passing reports whether an error of nats-server's health check passes by itself: a stream
// has a folder before it exists, and the server looks for one millisecond whether it accepts
// connections, which on a busy machine is no time at all.
func passing(why string) bool {
	return strings.Contains(why, "could not be recovered") || strings.Contains(why, "failed to be ready for connections")
}

// InProcessConn connects to the server that runs now (nats.InProcessConnProvider).
func (h *embeddedServer) InProcessConn() (net.Conn, error) {
	s := h.server()
	if s == nil {
		return nil, errNoServer
	}
	return s.InProcessConn()
}

// connect returns the leaf's own connection: in process to h, or to the server of
// cfg.URL when h is nil. It retries without end; a lost connection is logged once.
func connect(cfg NATSConfig, h *embeddedServer, site string, log *zap.Logger) (*nats.Conn, error) {
	opts := []nats.Option{
		nats.Name("petiole-leaf"), nats.Timeout(startTimeout), nats.MaxReconnects(-1), nats.ReconnectWait(time.Second),
		nats.RetryOnFailedConnect(h == nil), nats.CustomInboxPrefix("_INBOX_" + site),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { log.Warn("nats connection lost", zap.Error(err)) }),
		nats.ReconnectHandler(func(nc *nats.Conn) { log.Info("nats connection back", zap.String("url", nc.ConnectedUrlRedacted())) }),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			subject := ""
			if sub != nil {
				subject = sub.Subject
			}
			log.Warn("nats error", zap.String("subject", subject), zap.Error(err))
		}),
	}
	url := cfg.URL
	if h != nil {
		login, err := h.login()
		if err != nil {
			return nil, err
		}
		opts = append(opts, login, nats.InProcessServer(h), nats.ReconnectWait(100*time.Millisecond))
		url = ""
	} else {
		login, err := cfg.login()
		if err != nil {
			return nil, err
		}
		opts = append(opts, login...)
	}
	nc, err := nats.Connect(url, opts...)
	if err != nil {
		return nil, fmt.Errorf("connect to the site's nats-server: %w", err)
	}
	return nc, nil
}

// login returns how the leaf authenticates at the embedded server.
func (h *embeddedServer) login() (nats.Option, error) {
	nkey, err := h.key.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("read the leaf's own nkey: %w", err)
	}
	return nats.Nkey(nkey, h.key.Sign), nil
}

// login returns how the leaf authenticates at a nats-server outside of this process.
func (c NATSConfig) login() ([]nats.Option, error) {
	if c.User == "" {
		return nil, nil
	}
	password, err := credential.ReadPassword(c.PasswordFile)
	if err != nil {
		return nil, fmt.Errorf("nats.passwordFile: %w", err)
	}
	return []nats.Option{nats.UserInfo(c.User, password)}, nil
}

// natsLogger gives the embedded server's log to zap.
type natsLogger struct {
	log      *zap.SugaredLogger
	attempts *attempts
}

func (l natsLogger) Noticef(format string, v ...any) {
	if l.attempts.observe(format, v) {
		l.log.Infof(format, v...)
	}
}

func (l natsLogger) Errorf(format string, v ...any) {
	if l.attempts.observe(format, v) {
		l.log.Errorf(format, v...)
	}
}

func (l natsLogger) Warnf(format string, v ...any)  { l.log.Warnf(format, v...) }
func (l natsLogger) Debugf(format string, v ...any) { l.log.Debugf(format, v...) }
func (l natsLogger) Tracef(format string, v ...any) { l.log.Debugf(format, v...) }

// Fatalf only logs: the leaf decides whether the process ends.
func (l natsLogger) Fatalf(format string, v ...any) { l.log.Errorf(format, v...) }
