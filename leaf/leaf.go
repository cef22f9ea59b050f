// Package leaf is a site's gateway: the NATS leaf node that stores what the cloud
// wants and what the site has to say, the forwarder to the hub, the node API for the
// kubelet, and the device worker.
//
// It guarantees that a site lives without the cloud: everything that its pods and
// devices need to start again is in the leaf's store before it is acknowledged. It
// never waits for the link, and never imports the bridge. cmd/leaf calls it.
package leaf

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/modbus"
	"github.com/petiole-io/petiole/leaf/field"
	"github.com/petiole-io/petiole/leaf/node"
	"github.com/petiole-io/petiole/leaf/nodeapi"
	"github.com/petiole-io/petiole/streams"
)

// KubeconfigName is the kubeconfig of the node API in the data folder.
const KubeconfigName = "kubeconfig"

// Leaf is one site's gateway. Make it with New.
type Leaf struct {
	cfg     Config
	version string
	log     *zap.Logger
}

// New returns a leaf of a valid configuration. It starts nothing.
func New(cfg Config, version string, log *zap.Logger) *Leaf {
	return &Leaf{cfg: cfg, version: version, log: log.With(zap.String("site", cfg.Site), zap.String("node", cfg.Node))}
}

// Run starts everything, whether or not the hub can be reached, and blocks until ctx
// ends or a part fails for good. It returns when all that it started has stopped.
func (l *Leaf) Run(ctx context.Context) error {
	var embedded *server.Server
	if l.cfg.NATS.ConfigFile != "" {
		s, err := startServer(ctx, l.cfg.NATS.ConfigFile, l.log)
		if err != nil {
			return err
		}
		defer func() { s.Shutdown(); s.WaitForShutdown() }()
		embedded = s
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
	if err := l.ensureStreams(ctx, js); err != nil {
		return err
	}
	return l.runParts(ctx, nc, js, newLink(embedded, l.log))
}

// ensureStreams makes the site's streams. A server of the gateway's own may come up
// after the leaf, so it is tried again until ctx ends, with one log line.
func (l *Leaf) ensureStreams(ctx context.Context, js jetstream.JetStream) error {
	want := streams.LeafStreams(l.cfg.Site, streams.LeafLimits{TelemetryBytes: l.cfg.Storage.TelemetryBytes})
	for waiting := false; ; waiting = true {
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := streams.Ensure(attempt, js, want)
		cancel()
		var refused *jetstream.APIError
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &refused):
			return err
		case !waiting:
			l.log.Warn("waiting for the site's JetStream", zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

func (l *Leaf) runParts(ctx context.Context, nc *nats.Conn, js jetstream.JetStream, link *link) error {
	api := nodeapi.New(nodeapi.Config{
		Site: l.cfg.Site, Node: l.cfg.Node, JS: js,
		DataDir: l.cfg.DataDir, Listen: l.cfg.NodeAPI.Listen, Log: l.log.Named("nodeapi"),
	})
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return link.Run(ctx) })
	group.Go(func() error { return trim(ctx) })
	for _, stream := range []string{streams.SiteReported, streams.SiteTelemetry} {
		f := &forwarder{
			site: l.cfg.Site, stream: stream, js: js, link: link,
			hub: store{nc: nc, domain: streams.HubDomain}, log: l.log.Named("forward").With(zap.String("stream", stream)),
		}
		group.Go(func() error { return f.Run(ctx) })
	}
	r := &replicator{
		site: l.cfg.Site, js: js, nc: nc, link: link,
		local: store{nc: nc, domain: l.cfg.Site}, log: l.log.Named("replicate"),
	}
	group.Go(func() error { return r.Run(ctx) })
	group.Go(func() error { return api.Run(ctx) })
	quarantined := []counter{api}
	if !l.cfg.Devices.Disabled {
		f := field.New(field.Config{
			Site: l.cfg.Site, Node: l.cfg.Node, JS: js, Log: l.log.Named("devices"),
			Drivers: []devices.Driver{modbus.New(l.log.Named("modbus"))},
		})
		quarantined = append(quarantined, f)
		group.Go(func() error { return f.Run(ctx) })
	}
	heartbeat := &presence{
		site: l.cfg.Site, boot: nuid.Next(), version: l.version,
		nc: nc, js: js, link: link, node: api, quarantined: quarantined, log: l.log,
	}
	group.Go(func() error { return heartbeat.Run(ctx) })
	group.Go(func() error { return l.runKubelet(ctx, api) })
	return group.Wait()
}

// runKubelet waits for the node API and then runs the kubelet against it. The
// kubeconfig is written in any case: a stock kubelet may use it.
func (l *Leaf) runKubelet(ctx context.Context, api *nodeapi.API) error {
	select {
	case <-ctx.Done():
		return nil
	case <-api.Ready():
	}
	kubeconfig := filepath.Join(l.cfg.DataDir, KubeconfigName)
	if err := api.WriteKubeconfig(kubeconfig, "system:node:"+l.cfg.Node); err != nil {
		return err
	}
	if l.cfg.Kubelet.ConfigFile == "" {
		return nil
	}
	k := &node.Kubelet{
		Node: l.cfg.Node, ConfigFile: l.cfg.Kubelet.ConfigFile, Kubeconfig: kubeconfig,
		Args: l.cfg.Kubelet.Args, Log: l.log,
	}
	return k.Run(ctx)
}
