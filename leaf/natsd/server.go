// Package natsd runs the leaf node of a site, a nats-server, in the process of the leaf: it
// starts it from a stock configuration file, restarts it in place, and reports what only the
// server's inside shows: its health, its connection to the hub, streams that it did not recover.
// It is the only package of the product that links nats-server, and it holds what the leaf does
// about that server's bugs.
//
// It guarantees that nobody uses the server without a credential, and that the files of its
// store were checked before it opens them (leaf/filestore), that a store is encrypted if there is a
// key, and that without the right key it is not opened at all. It decides neither when to restart
// nor which streams there are: the leaf does. It does not know the hub's state beyond the
// connection.
package natsd

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/leaf/filestore"
	"github.com/petiole-io/petiole/streams"
)

// startTimeout is how long the server may take to recover its store.
const startTimeout = 60 * time.Second

// errNotRunning is returned while the server does not run.
var errNotRunning = errors.New("the embedded nats-server is not running")

// Server is the embedded nats-server. Connections of Connect reconnect by themselves when it is
// restarted. Use Start. It is safe for concurrent use.
type Server struct {
	site, configFile string
	// storeKey encrypts the store, "" if it is not encrypted.
	storeKey string
	// streams are written again if their descriptions are damaged.
	streams []jetstream.StreamConfig
	// key authenticates the leaf at the server for the lifetime of this process.
	key nkeys.KeyPair
	log *zap.Logger

	attempts attempts
	// addresses looks up the names of the hub.
	addresses *hubAddresses

	mu      sync.Mutex
	running *server.Server
	// storeDir is the folder of JetStream.
	storeDir string
	// hub is the connection to the hub as it is configured.
	hub hubConfig
	// damaged are the streams that a check of the store found damaged, until TakeDamaged is
	// called.
	damaged map[string]filestore.Damaged
	// lost are the streams that the server did not recover when it started.
	lost []StreamDir
	// lastSeqs are the last sequences of the streams when the server started, before anybody
	// connected.
	lastSeqs map[string]uint64
}

// hubConfig is the configuration of the connection to the hub.
type hubConfig struct {
	// ping and compression are Config.PingInterval and Config.Compression.
	ping        time.Duration
	compression string
	// account is the name of the account that it belongs to.
	account string
	// remotes is the number of leaf connections that the server should have, attemptInterval the
	// longest time between two attempts.
	remotes         int
	attemptInterval time.Duration
	// now returns the time by which the hub's certificate is judged; nil: that of the clock.
	now func() time.Time
}

// byRoundTrip is nats-server's choice of a compression by the round trip, without s2_best above 100 ms: that
// takes 0.1 ms of a processor for each flush, 200 times as long as s2_better, and saves two bytes of a short
// message (docs/decisions/0017-slow-lines.md). The last threshold is longer than any round trip.
var byRoundTrip = server.CompressionOpts{Mode: server.CompressionS2Auto, RTTThresholds: []time.Duration{10 * time.Millisecond, 50 * time.Millisecond, 24 * time.Hour}}

// apply changes the options of nats-server. A compression in its configuration file stays.
func (h hubConfig) apply(opts *server.Options) {
	if h.ping > 0 {
		opts.PingInterval = h.ping
	}
	for _, r := range opts.LeafNode.Remotes {
		if r.TLSConfig != nil && h.now != nil {
			r.TLSConfig.Time = h.now
		}
		switch chosen := r.Compression.Mode != "" && r.Compression.Mode != server.CompressionS2Auto || len(r.Compression.RTTThresholds) > 0; {
		case chosen:
		case h.compression != "":
			r.Compression = server.CompressionOpts{Mode: h.compression}
		default:
			r.Compression = byRoundTrip
		}
	}
}

// Config configures a Server.
type Config struct {
	// Site is the name of the site.
	Site string
	// File is a configuration file of nats-server.
	File string
	// StoreKey encrypts the store, which is converted if it is not encrypted yet. Empty: it is not
	// encrypted.
	StoreKey string
	// TelemetryBytes is the limit of SITE_TELEMETRY in bytes, with which its description is written
	// again if it is damaged. 0 selects the default of streams.LeafLimits.
	TelemetryBytes int64
	// PingInterval is the time between two pings of the connection to the hub; 0 for that of the
	// configuration file.
	PingInterval time.Duration
	// Compression is the mode of the connection to the hub, such as s2_best, unless the
	// configuration file has one; empty: nats-server's default, which depends on the round trip.
	Compression string
	// CertificateTimes returns the times by which the hub's certificate may be judged, at least one:
	// after a refusal the next attempt is judged by the next one. Nil: by the clock.
	CertificateTimes func() []time.Time
	// AddressFile keeps the last address of the hub, for a start without DNS. Empty: nothing does.
	AddressFile string
	Log         *zap.Logger
}

// Start starts the server of a site, and returns when it accepts connections. It returns
// filestore.ErrKey if the store is encrypted with another key.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	key, err := nkeys.CreateUser()
	if err != nil {
		return nil, fmt.Errorf("create the leaf's nkey: %w", err)
	}
	s := &Server{site: cfg.Site, configFile: cfg.File, storeKey: cfg.StoreKey, streams: streams.LeafStreams(cfg.Site, streams.LeafLimits{TelemetryBytes: cfg.TelemetryBytes}), hub: hubConfig{ping: cfg.PingInterval, compression: cfg.Compression}, key: key, addresses: openAddresses(cfg.AddressFile, cfg.Log), log: cfg.Log}
	if cfg.CertificateTimes != nil {
		s.hub.now = func() time.Time { return s.attempts.certificateTime(cfg.CertificateTimes()) }
	}
	return s, s.start(ctx, nil)
}

func (s *Server) start(ctx context.Context, first func(context.Context, *nats.Conn)) error {
	opts, err := readOptions(s.configFile, s.key, s.log)
	if err != nil {
		return err
	}
	if err := moveDefaultAccount(opts); err != nil {
		return fmt.Errorf("take over the store of the default account: %w", err)
	}
	s.hub.apply(opts)
	encrypt(opts, s.storeKey)
	s.addresses.proxied.Store(allProxied(opts.LeafNode.Remotes))
	if err := setResolver(opts, s.addresses); err != nil {
		return err
	}
	if opts.StoreDir != "" {
		damaged, err := prepareStore(ctx, filepath.Join(opts.StoreDir, server.JetStreamStoreDir), s.storeKey, s.streams, s.log.Named("store"))
		if err != nil {
			return err
		}
		s.addDamaged(damaged)
	}
	started, err := server.NewServer(opts)
	if err != nil {
		return fmt.Errorf("create nats-server of %s: %w", s.configFile, err)
	}
	started.SetLoggerV2(logger{s.log.Named("nats").Sugar(), &s.attempts}, opts.Debug, opts.Trace, false)
	started.Start()
	deadline := time.Now().Add(startTimeout)
	for !started.ReadyForConnections(100 * time.Millisecond) {
		if ctx.Err() != nil || time.Now().After(deadline) {
			started.Shutdown()
			started.WaitForShutdown()
			return fmt.Errorf("start nats-server of %s: not ready within %s", s.configFile, startTimeout)
		}
	}
	if !started.JetStreamEnabled() {
		started.Shutdown()
		started.WaitForShutdown()
		return fmt.Errorf("start nats-server of %s: JetStream is not enabled; its configuration needs a jetstream block", s.configFile)
	}
	began := lastSequences(started)
	store := started.JetStreamConfig().StoreDir
	lost, listErr := unrecovered(started, store)
	if first != nil {
		err = s.callFirst(ctx, started, first)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running, s.lastSeqs, s.storeDir, s.lost = started, began, store, lost
	s.hub.account = server.DEFAULT_GLOBAL_ACCOUNT
	if own := ownAccount(opts); own != nil {
		s.hub.account = own.Name
	}
	s.hub.remotes, s.hub.attemptInterval = len(opts.LeafNode.Remotes), attemptIntervalOf(opts)
	return errors.Join(err, listErr)
}

// encrypt changes the options for a store that is encrypted with key, if there is one.
func encrypt(opts *server.Options, key string) {
	if opts.StoreDir != "" && key != "" {
		opts.JetStreamKey, opts.JetStreamCipher = key, server.AES
	}
}

// prepareStore makes the files of a store safe to open, and encrypts those that have to be. It
// returns the streams that were found damaged.
func prepareStore(ctx context.Context, dir, key string, known []jetstream.StreamConfig, log *zap.Logger) ([]filestore.Damaged, error) {
	if err := filestore.CheckKey(dir, key); err != nil {
		return nil, fmt.Errorf("open the store with storage.encryption.keyFile: %w", err)
	}
	damaged, err := filestore.Check(ctx, dir, key, known, log)
	if err != nil {
		log.Warn("stored messages not checked", zap.Error(err))
	}
	if key == "" {
		return damaged, nil
	}
	return damaged, filestore.Encrypt(ctx, dir, key, log)
}

// readOptions reads the configuration file and makes it safe.
func readOptions(configFile string, key nkeys.KeyPair, log *zap.Logger) (*server.Options, error) {
	opts, err := server.ProcessConfigFile(configFile)
	if err != nil {
		if !strings.Contains(err.Error(), configFile) { // nor does a syntax error name it
			err = fmt.Errorf("%s: %w", configFile, err)
		}
		return nil, fmt.Errorf("nats.configFile: %w", err)
	}
	nkey, err := key.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("read the leaf's own nkey: %w", err)
	}
	if err := secure(opts, nkey); err != nil {
		return nil, fmt.Errorf("nats.configFile %s: %w", configFile, err)
	}
	warnSharedAccount(opts, nkey, log)
	if opts.MaxPayload != 0 && opts.MaxPayload < streams.MinMaxPayload {
		return nil, fmt.Errorf("nats.configFile %s: max_payload: %d: must be at least %d, a part of an object with its headers", configFile, opts.MaxPayload, streams.MinMaxPayload)
	}
	opts.NoSigs = true // the leaf handles signals
	if opts.JetStreamMaxStore <= 0 {
		// Otherwise nats-server 2.15.2 takes what is free at its start for a limit, and stays
		// full for ever when it was started on a full disk (docs/upstream.md, 12).
		opts.JetStreamMaxStore = server.JetStreamMaxStoreDefault
	}
	opts.ConnectErrorReports, opts.ReconnectErrorReports = 1, 1 // attempts are counted: see attempts
	return opts, nil
}

// StoreDir returns the folder of JetStream that a configuration names.
func StoreDir(configFile string) (string, error) {
	opts, err := server.ProcessConfigFile(configFile)
	if err != nil {
		return "", fmt.Errorf("read the configuration of the nats-server: %w", err)
	}
	return opts.StoreDir, nil
}

// Stop stops the server and waits until it has stopped.
func (s *Server) Stop() {
	s.mu.Lock()
	running := s.running
	s.running = nil
	s.mu.Unlock()
	if running != nil {
		running.Shutdown()
		running.WaitForShutdown()
	}
}

// Restart stops the server, calls between, and starts the server again even if between fails.
// It calls first with a connection to the new server before anybody else in this process can
// connect to it. The server may run although Restart returns an error.
func (s *Server) Restart(ctx context.Context, between func() error, first func(context.Context, *nats.Conn)) error {
	s.Stop()
	err := between()
	return errors.Join(err, s.start(ctx, first))
}

// Running reports whether the server runs.
func (s *Server) Running() bool { return s.server() != nil }

// server returns the running server, or nil if none runs.
func (s *Server) server() *server.Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running
}

// HubConnection returns the id of the connection to the hub, or 0 if there is none. A new
// connection has another id.
func (s *Server) HubConnection() uint64 {
	running := s.server()
	if running == nil || running.NumLeafNodes() == 0 {
		return 0
	}
	z, err := running.Leafz(nil)
	if err != nil || len(z.Leafs) == 0 {
		return 0
	}
	s.attempts.refused.Store(nil)
	s.addresses.connected(z.Leafs[0].ID, z.Leafs[0].IP)
	return z.Leafs[0].ID
}

// Imports reports whether the hub takes messages on a subject from this site: whether the site's
// account there imports it. It is false while the server is not connected.
func Imports(s *Server, subject string) bool { return interest(s, subject, false) }

// Interest reports whether anybody is subscribed to a subject of the leaf's account, an importing
// account or the hub included. It is true while the server is being restarted.
func Interest(s *Server, subject string) bool { return interest(s, subject, true) }

// interest reports whether the leaf's account has a subscription to a subject, and unknown if that
// cannot be told.
func interest(s *Server, subject string, unknown bool) bool {
	s.mu.Lock()
	running, name := s.running, s.hub.account
	s.mu.Unlock()
	if running == nil {
		return unknown
	}
	account, err := running.LookupAccount(name)
	if err != nil {
		return unknown
	}
	return account.SubscriptionInterest(subject)
}

// passingTime bounds the errors of the server's health check that may pass by themselves.
const passingTime = time.Second

// unrecoveredSuffix ends the error about a stream that has a folder and does not exist.
const unrecoveredSuffix = "could not be recovered"

// Health returns why JetStream does not store, or nil if it does. After a disk error a stream
// of nats-server 2.15.2 refuses every message until the server is restarted (docs/upstream.md,
// 11). It waits for what may pass by itself, for passingTime at most.
func (s *Server) Health() error {
	for start := time.Now(); ; time.Sleep(passingTime / 20) {
		s.mu.Lock()
		running, lost := s.running, s.lost
		s.mu.Unlock()
		if running == nil {
			return errNotRunning
		}
		var errs []error
		passes := true
		for _, e := range running.Healthz(&server.HealthzOptions{Details: true}).Errors {
			if !isBeingCreated(e, lost) {
				errs = append(errs, errors.New(e.Error))
				passes = passes && mayPass(e)
			}
		}
		if len(errs) == 0 || !passes || time.Since(start) > passingTime {
			return errors.Join(errs...)
		}
	}
}

// isBeingCreated reports whether an error of the health check is about a stream that is being
// created: its folder exists before it does, and nats-server 2.15.2 reports that as a stream that
// was not recovered (docs/upstream.md, 13). Those that really were not are in lost.
func isBeingCreated(e server.HealthzError, lost []StreamDir) bool {
	return e.Type == server.HealthzErrorStream && strings.HasSuffix(e.Error, unrecoveredSuffix) &&
		!slices.Contains(lost, StreamDir{e.Account, e.Stream})
}

// mayPass reports whether an error of the health check may pass by itself: a lost stream is being
// created again, or the server, which looks for one millisecond whether it accepts connections
// (docs/upstream.md, 13), is busy.
func mayPass(e server.HealthzError) bool {
	return e.Type == server.HealthzErrorConn || strings.HasSuffix(e.Error, unrecoveredSuffix)
}
