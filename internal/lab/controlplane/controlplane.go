package controlplane

import (
	"context"
	"fmt"
	"path/filepath"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"k8s.io/apiserver/pkg/util/compatibility"

	"github.com/petiole-io/petiole/internal/lab/cluster"
)

// Config configures where the control plane keeps its data and listens. All ports but the API
// server's are on 127.0.0.1.
type Config struct {
	// Dir holds certificates, kubeconfigs and etcd's data.
	Dir string
	// APIPort, EtcdPort and EtcdPeerPort: there is no default.
	APIPort, EtcdPort, EtcdPeerPort int
	// BindAddress is that of the API server; default 127.0.0.1.
	BindAddress string
	// AdvertiseAddress is shown by the endpoints of default/kubernetes. Nothing
	// needs to listen there.
	AdvertiseAddress string
}

// ControlPlane is a control plane that is not running yet.
type ControlPlane struct {
	cfg   Config
	creds cluster.Credentials
	log   *zap.Logger
}

// New creates the credentials that are missing in cfg.Dir.
func New(cfg Config, log *zap.Logger) (*ControlPlane, error) {
	creds, err := cluster.NewCredentials(cfg.Dir, cfg.APIPort)
	if err != nil {
		return nil, fmt.Errorf("create credentials: %w", err)
	}
	return &ControlPlane{cfg: cfg, creds: creds, log: log}, nil
}

// Credentials returns the files of its clients' credentials.
func (c *ControlPlane) Credentials() cluster.Credentials { return c.creds }

// Run starts the components in order and blocks until ctx ends or one of them fails;
// the others are stopped then.
func (c *ControlPlane) Run(ctx context.Context) error {
	stopEtcd, err := c.startEtcd(ctx)
	if err != nil {
		return fmt.Errorf("start etcd: %w", err)
	}
	defer stopEtcd()
	if err := compatibility.DefaultComponentGlobalsRegistry.Set(); err != nil {
		return fmt.Errorf("set feature gates: %w", err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return ended(ctx, "kube-apiserver", c.runAPIServer(ctx)) })
	group.Go(func() error {
		cfg, err := cluster.Config(c.creds.Admin)
		if err != nil {
			return err
		}
		if err := awaitHealthy(ctx, cfg); err != nil {
			return ended(ctx, "kube-apiserver", err)
		}
		c.log.Info("API server ready", zap.String("url", cfg.Host))
		group.Go(func() error { return ended(ctx, "kube-scheduler", c.runScheduler(ctx)) })
		group.Go(func() error { return ended(ctx, "kube-controller-manager", c.runControllerManager(ctx)) })
		return nil
	})
	return group.Wait()
}

func (c *ControlPlane) etcdDir() string { return filepath.Join(c.cfg.Dir, "etcd") }

func (c *ControlPlane) etcdURL() string { return fmt.Sprintf("http://127.0.0.1:%d", c.cfg.EtcdPort) }

// ended returns the error of a component that has returned: nil if ctx has ended and it stopped as
// asked.
func ended(ctx context.Context, component string, err error) error {
	switch {
	case ctx.Err() != nil:
		return nil
	case err == nil:
		return fmt.Errorf("%s ended by itself", component)
	}
	return fmt.Errorf("%s: %w", component, err)
}
