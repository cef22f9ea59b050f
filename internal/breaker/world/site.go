package world

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/petiole-io/petiole/internal/lab/daemon"
	"github.com/petiole-io/petiole/internal/lab/fabric"
	"github.com/petiole-io/petiole/internal/lab/network"
	"github.com/petiole-io/petiole/internal/lab/render"
	"github.com/petiole-io/petiole/leaf/credential"
)

// telemetryBytes bounds a site's telemetry, so that it can be reached in a run.
const telemetryBytes = 16 << 20

// Site is a leaf without devices in a network namespace, with its store on a disk of its
// own. A light site has no kubelet.
type Site struct {
	network.Site
	Leaf *Process
	Disk Disk
	Link *Link
	// Runtime runs the containers of a full site; nil for a light one.
	Runtime *Runtime

	world *World
	dir   string
}

func (w *World) newSite(number int, full bool) *Site {
	s := &Site{Site: network.Site{Name: fmt.Sprintf("s%02d", number), Number: number}, world: w}
	s.dir = filepath.Join(w.opts.Dir, "sites", s.Name)
	s.Disk = Disk{Image: s.dir + ".img", Dir: filepath.Join(s.dir, "disk")}
	s.Link = newLink(w.net, s.Site)
	s.Leaf = newProcess(w.set, daemon.Daemon{
		Name: "leaf-" + s.Name, Path: w.opts.Leaf, NetNS: s.Namespace(), Args: []string{"--config", s.config()},
	})
	if full {
		s.Runtime = w.newRuntime(s)
	}
	return s
}

// Node returns the name of the site's node.
func (s *Site) Node() string { return s.Name + "-1" }

// Objects returns the Kubernetes namespace of the site's objects.
func (s *Site) Objects() string { return "breaker-" + s.Name }

// Store returns the folder of the leaf's JetStream.
func (s *Site) Store() string { return filepath.Join(s.Disk.Dir, "store") }

func (s *Site) config() string { return filepath.Join(s.dir, "leaf.yaml") }

func (s *Site) create() error {
	if err := s.world.net.CreateSite(s.Site); err != nil {
		return err
	}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return err
	}
	if err := s.Disk.Create(); err != nil {
		return err
	}
	if err := s.Disk.Mount(); err != nil {
		return err
	}
	if s.Runtime != nil {
		if err := s.Runtime.prepare(); err != nil {
			return err
		}
	}
	return s.writeConfig(s.dir, s.Disk.Dir, s.world.gatewayCreds(s.Name), s.Runtime)
}

// writeConfig writes the leaf's configuration to dir; the leaf keeps its files in data and connects
// to the hub with creds. It runs a kubelet if there is a runtime.
func (s *Site) writeConfig(dir, data, creds string, r *Runtime) error {
	w := s.world
	conf := natsConf(dir)
	err := fabric.RepoTemplates(w.opts.Root).WriteLeaf(conf, fabric.Leaf{
		// The breaker writes the messages of a device worker at the site: it uses the leaf's user.
		Site: s.Name, Listen: leafClients, LeafUser: true, Store: filepath.Join(data, "store"), URL: "tls://" + w.hubLeaves(),
		Credentials: creds, CAFile: w.natsCA.CertFile,
	})
	if err != nil {
		return err
	}
	cfg := map[string]any{
		"site": s.Name, "node": s.Node(), "dataDir": filepath.Join(data, "leaf"),
		"nats": map[string]any{"configFile": conf}, "nodeAPI": map[string]any{"listen": nodeAPI},
		"devices": map[string]any{"disabled": true}, "storage": map[string]any{"telemetryBytes": telemetryBytes},
	}
	if r != nil {
		cfg["kubelet"] = map[string]any{"configFile": r.kubeletConfig(), "args": []string{
			"--root-dir=" + r.kubeletRoot(), "--cert-dir=" + filepath.Join(r.kubeletRoot(), "pki"), "--node-ip=" + w.net.SiteAddress(s.Site).String(),
		}}
	}
	out, err := yaml.Marshal(cfg)
	if err != nil {
		return fmt.Errorf("encode configuration: %w", err)
	}
	return render.Secret(filepath.Join(dir, "leaf.yaml"), out)
}

// natsConf returns the nats-server configuration of a leaf whose files are in dir.
func natsConf(dir string) string { return filepath.Join(dir, "nats", "leaf.conf") }

// destroy stops the leaf and removes disk, link and namespace.
func (s *Site) destroy() error {
	var errs []error
	for _, name := range []string{s.Leaf.Name(), s.cloneName()} {
		errs = append(errs, s.world.set.Kill(name))
	}
	if s.Runtime != nil {
		errs = append(errs, s.Runtime.destroy())
	}
	errs = append(errs, s.Disk.Unmount(), s.Link.DeleteFilter(), s.world.net.DeleteSite(s.Site), s.world.net.DeleteSite(s.cloneSite()))
	return errors.Join(errs...)
}

// AwaitReady blocks until the leaf serves its node API.
func (s *Site) AwaitReady(ctx context.Context) error {
	return await(ctx, "the leaf of "+s.Name, func(context.Context) error {
		if s.Leaf.Crashed() {
			return fmt.Errorf("the leaf ended, see %s", s.Leaf.Log())
		}
		if _, err := os.Stat(s.kubeconfig()); err != nil {
			return err
		}
		conn, err := s.Dial(nodeAPI, time.Second)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

func (s *Site) kubeconfig() string { return filepath.Join(s.Disk.Dir, "leaf", "kubeconfig") }

// NodeAPI returns the client configuration of the site's node for the node API.
func (s *Site) NodeAPI() (*rest.Config, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", s.kubeconfig())
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig of %s: %w", s.Name, err)
	}
	cfg.QPS, cfg.Burst = 200, 400
	cfg.Dial = func(_ context.Context, _, address string) (net.Conn, error) { return s.Dial(address, 3*time.Second) }
	return cfg, nil
}

// Connect connects to the leaf's NATS server as the leaf's user.
func (s *Site) Connect() (*nats.Conn, error) {
	password, err := credential.ReadPassword(filepath.Join(fabric.UsersDir(natsConf(s.dir)), fabric.UserLeaf+".conf"))
	if err != nil {
		return nil, err
	}
	nc, err := nats.Connect("nats://"+leafClients, nats.UserInfo(fabric.UserLeaf, password), nats.SetCustomDialer(siteDialer{s}), nats.Name("breaker"),
		nats.MaxReconnects(-1), nats.ReconnectWait(200*time.Millisecond), nats.RetryOnFailedConnect(true), nats.ReconnectBufSize(-1),
		nats.PingInterval(2*time.Second), nats.MaxPingsOutstanding(2))
	if err != nil {
		return nil, fmt.Errorf("connect to the leaf of %s: %w", s.Name, err)
	}
	return nc, nil
}

// siteDialer dials from within a site.
type siteDialer struct{ site *Site }

func (i siteDialer) Dial(_, address string) (net.Conn, error) {
	return i.site.Dial(address, 3*time.Second)
}

func (s *Site) cloneName() string { return s.Leaf.Name() + "-clone" }

// cloneOf returns the name under which the key of a site's second gateway is kept.
func cloneOf(site string) string { return site + "-clone" }

func (s *Site) cloneSite() network.Site {
	return network.Site{Name: cloneOf(s.Name), Number: s.Number + MaxSites}
}

// StartClone starts a second leaf with the identity of this site and a store of its own,
// which is empty, in another namespace, as a gateway that was replaced too early does: the Site
// lists the keys of both, so that the hub lets both in. It runs until stop is called.
func (s *Site) StartClone() (stop func() error, err error) {
	w, clone := s.world, s.cloneSite()
	if err := w.net.CreateSite(clone); err != nil {
		return nil, err
	}
	dir := s.dir + "-clone"
	if err := os.RemoveAll(dir); err != nil {
		return nil, fmt.Errorf("start clone of %s: %w", s.Name, err)
	}
	if err := s.writeConfig(dir, dir, w.gatewayCreds(cloneOf(s.Name)), nil); err != nil {
		return nil, err
	}
	p := newProcess(w.set, daemon.Daemon{
		Name: s.cloneName(), Path: filepath.Join(w.bin, "leaf"), NetNS: clone.Namespace(), Args: []string{"--config", filepath.Join(dir, "leaf.yaml")},
	})
	if err := p.Start(); err != nil {
		return nil, err
	}
	return func() error { return errors.Join(p.Kill(), w.net.DeleteSite(clone)) }, nil
}
