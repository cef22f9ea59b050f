// Package leaf is a site's gateway: the NATS leaf node that stores what the cloud
// wants and what the site has to say, the forwarder to the hub, the node API for the
// kubelet, and the device worker.
//
// It guarantees that a site lives without the cloud: everything that its pods and
// devices need to start again is in the leaf's store before it is acknowledged. A full
// disk and a damaged store are states that it recovers from by itself (package store). It
// never waits for the link, except to fill a store that had to be created again, and never
// imports the bridge. cmd/leaf calls it.
package leaf

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/dmi"
	"github.com/petiole-io/petiole/devices/modbus"
	"github.com/petiole-io/petiole/leaf/backup"
	"github.com/petiole-io/petiole/leaf/clock"
	"github.com/petiole-io/petiole/leaf/field"
	"github.com/petiole-io/petiole/leaf/forward"
	"github.com/petiole-io/petiole/leaf/hubcheck"
	"github.com/petiole-io/petiole/leaf/kubeletapi"
	"github.com/petiole-io/petiole/leaf/link"
	"github.com/petiole-io/petiole/leaf/natsd"
	"github.com/petiole-io/petiole/leaf/node"
	"github.com/petiole-io/petiole/leaf/nodeapi"
	"github.com/petiole-io/petiole/leaf/replicate"
	"github.com/petiole-io/petiole/leaf/store"
	"github.com/petiole-io/petiole/leaf/storekey"
	"github.com/petiole-io/petiole/leaf/traffic"
	"github.com/petiole-io/petiole/leaf/transfer"
	"github.com/petiole-io/petiole/streams"
)

// trafficName is the file in the data folder of what the link carried.
const trafficName = "traffic.json"

// addressesName is the file with the last address of the hub in Config.DataDir.
const addressesName = "addresses.json"

// KubeconfigName is the kubeconfig of the node API in the data folder.
const KubeconfigName = "kubeconfig"

// Leaf is one site's gateway. Use New.
type Leaf struct {
	cfg     Config
	version string
	// boot changes at each start.
	boot   string
	counts *counts
	log    *zap.Logger
	// server is the embedded one, nil if there is none or it has not started.
	server atomic.Pointer[natsd.Server]
}

// New returns a leaf of a valid configuration. It starts nothing.
func New(cfg Config, version string, log *zap.Logger) *Leaf {
	return &Leaf{
		cfg: cfg, version: version, counts: newCounts(), boot: nuid.Next(),
		log: log.With(zap.String("site", cfg.Site), zap.String("node", cfg.Node)),
	}
}

// Run starts everything, whether or not the hub can be reached, and blocks until ctx
// ends or a part fails for good. It returns when all that it started has stopped.
func (l *Leaf) Run(ctx context.Context) error {
	release, err := backup.Lock(l.cfg.DataDir)
	if err != nil {
		return err
	}
	defer release()
	encryption := l.cfg.Storage.Encryption
	key, err := storekey.Open(storekey.Config{DataDir: l.cfg.DataDir, KeyFile: encryption.KeyFile, PreviousKeyFile: encryption.PreviousKeyFile}, l.log)
	if err != nil {
		return err
	}
	source, err := clock.System()
	if err != nil {
		return err
	}
	now := clock.Open(clock.Config{DataDir: l.cfg.DataDir, Source: source, Log: l.log.Named("clock")})
	var embedded *natsd.Server
	if l.cfg.NATS.ConfigFile != "" {
		storeKey, err := key.Store()
		if err != nil {
			return fmt.Errorf("derive the key of the store: %w", err)
		}
		h, err := natsd.Start(ctx, natsd.Config{Site: l.cfg.Site, File: l.cfg.NATS.ConfigFile, StoreKey: storeKey, TelemetryBytes: l.cfg.Storage.TelemetryBytes, PingInterval: l.cfg.profile().ping, Compression: l.cfg.profile().compression, CertificateTimes: now.CertificateTimes, AddressFile: filepath.Join(l.cfg.DataDir, addressesName), Log: l.log})
		if err != nil {
			return err
		}
		defer h.Stop()
		embedded = h
		l.server.Store(h)
	}
	tokenKey, err := key.Tokens()
	if err != nil {
		return fmt.Errorf("derive the key of the tokens: %w", err)
	}
	nc, err := connect(l.cfg.NATS, embedded, l.cfg.Site, l.log)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("open JetStream: %w", err)
	}
	kubelet, err := l.newKubeletAPI(embedded)
	if err != nil {
		return err
	}
	defer kubelet.nc.Close()
	l.counts.meter.Sessions(kubelet.nc)
	carried := newWire(embedded)
	account, err := traffic.Open(traffic.Config{Path: filepath.Join(l.cfg.DataDir, trafficName), Meter: l.counts.meter, Wire: carried.total, Log: l.log.Named("traffic")})
	if err != nil {
		l.log.Warn("what the link carried before is unknown", zap.Error(err))
	}
	for {
		supervisor := l.newSupervisor(embedded, js, 0)
		if err := supervisor.Open(ctx); err != nil {
			return err
		}
		err := l.runParts(ctx, now, nc, js, embedded, supervisor, tokenKey, kubelet, carried, account)
		if ctx.Err() == nil && errors.Is(err, store.ErrRebuild) {
			l.log.Error("starting all parts again", zap.Error(err))
			continue
		}
		supervisor.Checkpoint(context.WithoutCancel(ctx))
		return err
	}
}

func (l *Leaf) runParts(ctx context.Context, now *clock.Clock, nc *nats.Conn, js jetstream.JetStream, h *natsd.Server, supervisor *store.Supervisor, tokenKey []byte, kubelet *kubeletAPI, carried *wire, account *traffic.Account) error {
	hubLink := l.newLink(h)
	api := nodeapi.New(nodeapi.Config{
		Link: hubLink,
		Site: l.cfg.Site, Node: l.cfg.Node, JS: js,
		DataDir: l.cfg.DataDir, TokenKey: tokenKey, Listen: l.cfg.NodeAPI.Listen, ListenPods: l.cfg.NodeAPI.pods(), Log: l.log.Named("nodeapi"),
		DialKubelet:    kubelet.dial,
		StatusInterval: l.cfg.profile().nodeStatus, Behind: now.Behind, ClockRight: func() bool { return now.State() == clock.Right },
		Requester: transfer.Requester{Conn: nc, Meter: l.counts.meter},
	})
	hub := l.newHubCheck(nc, hubLink, now, h)
	child := l.newKubelet(api, kubelet.credentials)
	problem := func() string { return "" }
	if child != nil {
		problem = child.Problem
	}
	state := &status{
		skewed: now.Skewed, js: js, quarantined: []quarantine{api}, drops: supervisor.Drops(), degraded: supervisor.Degraded, hubProblems: hub.Problems, kubelet: problem,
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return hubLink.Run(ctx) })
	group.Go(func() error { return hub.Run(ctx) })
	group.Go(func() error { return now.Run(ctx) })
	group.Go(func() error { return supervisor.Run(ctx) })
	group.Go(func() error { return account.Run(ctx) })
	reporter := traffic.NewReporter(traffic.ReporterConfig{
		Site: l.cfg.Site, Account: account, Link: hubLink, Interval: l.cfg.profile().traffic, Conn: nc, Meter: l.counts.meter, Log: l.log.Named("traffic"),
	})
	group.Go(func() error { return reporter.Run(ctx) })
	collect := []prometheus.Collector{&gauges{state, hubLink, supervisor, api, child, now}, carried}
	for _, stream := range []string{streams.SiteReported, streams.SiteTelemetry} {
		f := forward.New(forward.Config{
			Site: l.cfg.Site, Stream: stream, JS: js, Link: hubLink, Timelines: supervisor.Timeline(stream), Drops: supervisor.Drops(),
			MaxPayload: hub.MaxPayload, CorrectTime: now.Correct, Idle: l.cfg.profile().idle, Gather: l.cfg.profile().gather, Level: account.Level, Meter: l.counts.meter, Counters: l.counts.forward, Log: l.log.Named("forward").With(zap.String("stream", stream)),
		})
		if stream == streams.SiteReported {
			state.refused = f.Refused
		} else {
			state.setAside = f.Aside.Last
		}
		group.Go(func() error { return f.Run(ctx) })
	}
	r := replicate.New(replicate.Config{
		Site: l.cfg.Site, JS: js, Link: hubLink, Desired: supervisor.Desired(), Heartbeat: l.cfg.profile().sync, Pace: replicate.Pace{Interval: l.cfg.profile().comparison}, Meter: l.counts.meter, MaxPayload: hub.MaxPayload, Counters: l.counts.replicate, Log: l.log.Named("replicate"),
	})
	group.Go(func() error { return r.Run(ctx) })
	// Readers of desired state wait until it is complete: see store.Desired.
	group.Go(func() error { return after(ctx, supervisor.Desired().Complete(), api.Run) })
	if !l.cfg.Devices.Disabled {
		builtIn := devices.WithoutProtocols(modbus.New(l.log.Named("modbus")), l.cfg.Devices.MapperProtocols)
		drivers := []devices.Driver{builtIn}
		var remote devices.ReportReceiver
		if l.cfg.Devices.DMISocket != "" {
			mappers := dmi.New(dmi.Config{
				Socket: l.cfg.Devices.DMISocket, StateFile: filepath.Join(l.cfg.DataDir, "mappers.json"), Log: l.log.Named("dmi"),
				BuiltIn: builtIn.Protocols(), Until: now.Until,
			})
			drivers, remote = append(drivers, mappers), dmi.NewRemote(mappers)
			group.Go(func() error { return mappers.Run(ctx) })
		}
		f := field.New(field.Config{
			Site: l.cfg.Site, Node: l.cfg.Node, JS: js, Clock: now, Log: l.log.Named("devices"), Drivers: drivers,
			MQTT: l.cfg.Devices.MQTT, Mappers: remote, Interest: interest(h), PushFormat: l.cfg.Devices.PushFormat,
			Gather: l.cfg.Devices.Gather.Duration, StateLostAt: supervisor.DeviceStateLostAt, Meter: l.counts.meter,
		})
		state.quarantined, collect = append(state.quarantined, f), append(collect, &deviceGauges{f})
		group.Go(func() error { return after(ctx, supervisor.Desired().Complete(), f.Run) })
	}
	group.Go(func() error {
		// A site lives without its metrics.
		if err := expose(ctx, l.cfg.Metrics.endpoint(l.log), l.counts, collect, h, readiness(api.Ready(), problem, hub, now, h)); err != nil {
			l.log.Error("no metrics", zap.Error(err))
		}
		return nil
	})
	heartbeat := &presence{
		site: l.cfg.Site, boot: l.boot, version: l.version, interval: l.cfg.profile().presence,
		nc: nc, meter: l.counts.meter, link: hubLink, node: api, status: state, log: l.log,
	}
	group.Go(func() error { return heartbeat.Run(ctx) })
	group.Go(func() error { return kubelet.run(ctx) })
	group.Go(func() error {
		return after(ctx, api.Ready(), func(ctx context.Context) error { return l.runKubelet(ctx, api, child) })
	})
	return group.Wait()
}

func (l *Leaf) newSupervisor(embedded *natsd.Server, js jetstream.JetStream, maxIdleChecks int) *store.Supervisor {
	return store.New(store.Config{
		Site: l.cfg.Site, DataDir: l.cfg.DataDir, Server: embedded, JS: js,
		TelemetryBytes: l.cfg.Storage.TelemetryBytes, ReserveBytes: l.cfg.Storage.ReserveBytes,
		DeviceState: store.DeviceState{Stream: field.StateStream, Create: field.CreateState}, MaxIdleChecks: maxIdleChecks,
		Counters: l.counts.store, Log: l.log.Named("store"),
	})
}

// interest returns the function that reports whether anybody at the embedded server subscribes to a
// subject, nil if there is no such server.
func interest(h *natsd.Server) func(subject string) bool {
	if h == nil {
		return nil
	}
	return func(subject string) bool { return natsd.Interest(h, subject) }
}

// newLink returns the link to the hub, which can be followed with the embedded server alone.
func (l *Leaf) newLink(h *natsd.Server) *link.Link {
	var connection func() uint64
	if h != nil {
		connection = h.HubConnection
	}
	return link.New(connection, l.counts.linkChanges, l.log)
}

// newHubCheck returns what checks the hub of the site.
func (l *Leaf) newHubCheck(nc *nats.Conn, hubLink *link.Link, now *clock.Clock, h *natsd.Server) *hubcheck.Checker {
	cfg := hubcheck.Config{Site: l.cfg.Site, Conn: nc, Link: hubLink, Measured: now.Measured, Refresh: l.cfg.profile().comparison, Meter: l.counts.meter, Log: l.log.Named("hub")}
	if h != nil {
		cfg.Imports = func(subject string) bool { return natsd.Imports(h, subject) }
	}
	return hubcheck.New(cfg)
}

// after calls run when ready is closed.
func after(ctx context.Context, ready <-chan struct{}, run func(context.Context) error) error {
	select {
	case <-ctx.Done():
		return nil
	case <-ready:
		return run(ctx)
	}
}

// newKubelet returns the kubelet, nil if the leaf is to run none.
func (l *Leaf) newKubelet(api *nodeapi.API, credentials *kubeletapi.Credentials) *node.Kubelet {
	if l.cfg.Kubelet.ConfigFile == "" {
		return nil
	}
	return &node.Kubelet{
		Node: l.cfg.Node, ConfigFile: l.cfg.Kubelet.ConfigFile, Kubeconfig: filepath.Join(l.cfg.DataDir, KubeconfigName),
		ClientCAFile: credentials.CAFile, CertFile: credentials.CertFile, KeyFile: credentials.KeyFile,
		Args: l.cfg.Kubelet.Args, Log: l.log,
		Renewed: func() time.Time {
			for _, n := range api.Leases() {
				if n.Name == l.cfg.Node {
					return n.Renewed
				}
			}
			return time.Time{}
		},
	}
}

// runKubelet runs the kubelet, if there is one, against the node API. The kubeconfig is written
// in any case: a stock kubelet may use it.
func (l *Leaf) runKubelet(ctx context.Context, api *nodeapi.API, kubelet *node.Kubelet) error {
	if err := api.WriteKubeconfig(filepath.Join(l.cfg.DataDir, KubeconfigName), "system:node:"+l.cfg.Node); err != nil {
		return err
	}
	if kubelet == nil {
		return nil
	}
	return kubelet.Run(ctx)
}
