package world

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sys/unix"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/petiole-io/petiole/bridge/accounts"
	"github.com/petiole-io/petiole/internal/lab/cluster"
	"github.com/petiole-io/petiole/internal/lab/daemon"
	"github.com/petiole-io/petiole/internal/lab/fabric"
	"github.com/petiole-io/petiole/internal/lab/network"
	"github.com/petiole-io/petiole/internal/lab/pki"
	"github.com/petiole-io/petiole/leaf/credential"
)

// Where the parts listen. The lab's own ports and devices are others, so that the
// configuration of neither depends on whether the other is there.
const (
	apiPort      = 16443
	etcdPort     = 12379
	etcdPeerPort = 12380
	hubClients   = "127.0.0.1:14222"
	hubMonitor   = "127.0.0.1:18222"
	hubLeafPort  = 7422
	gatePort     = 16501
	metricsPort  = 16601
	device       = "petbrk"
	prefix       = "10.97.0.0/24"
	leafClients  = "127.0.0.1:4222"
	nodeAPI      = "127.0.0.1:10441"
)

// MaxSites bounds the number of sites of a world: its network has no more addresses,
// clones included.
const MaxSites = 100

// Options configures a world.
type Options struct {
	// Root is the repository, Dir the folder of the world's files; its content is
	// removed.
	Root, Dir string
	// Sites is the number of light sites, Simulated the number of further sites for leaves that
	// somebody else runs.
	Sites, Simulated int
	// Full adds a site with kubelet and CRI-O; it is the last one.
	Full bool
	// Bridge and Leaf are the programs that run first; empty: those of this version.
	Bridge, Leaf string
	// OnWrite is called for every change that a bridge makes at the API server, or tries to.
	// It is called concurrently.
	OnWrite func(Write)
}

// World is a running world. New creates it, Up starts it.
type World struct {
	opts Options
	net  network.Network
	set  daemon.Set
	bin  string

	ControlPlane *ControlPlane
	Hub          *Process
	Bridges      []*Bridge
	Sites        []*Site

	// REST reaches the API server directly, as an administrator.
	REST    *rest.Config
	Kube    kubernetes.Interface
	Dynamic dynamic.Interface

	kubeCA, natsCA *pki.Authority
	race           election
	images         *Process
	locked         *os.File
}

// New returns a world that does not run yet.
func New(o Options) (*World, error) {
	if o.Sites < 1 || o.Sites >= MaxSites {
		return nil, fmt.Errorf("a world has 1 to %d light sites, not %d", MaxSites-1, o.Sites)
	}
	w := &World{
		opts: o, net: network.Network{Device: device, Prefix: netip.MustParsePrefix(prefix)},
		set: daemon.Set{RunDir: filepath.Join(o.Dir, "run"), LogDir: filepath.Join(o.Dir, "log")},
		bin: filepath.Join(o.Root, ".lab/bin"),
	}
	w.opts.Bridge, w.opts.Leaf = cmp.Or(o.Bridge, filepath.Join(w.bin, "bridge")), cmp.Or(o.Leaf, filepath.Join(w.bin, "leaf"))
	for i := range o.Sites {
		w.Sites = append(w.Sites, w.newSite(i+1, false))
	}
	if o.Full {
		w.Sites = append(w.Sites, w.newSite(o.Sites+1, true))
	}
	return w, nil
}

// lockFile is the machine's: the names of namespaces and devices are, too.
const lockFile = "/run/petiole-breaker.lock"

// lock keeps other worlds away until Close.
func (w *World) lock() error {
	f, err := os.OpenFile(lockFile, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("lock the world: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return errors.Join(fmt.Errorf("lock the world with %s, is there another one: %w", lockFile, err), f.Close())
	}
	w.locked = f
	return nil
}

// Up starts everything and returns when the API server is ready, both bridges run and
// every leaf serves its node API.
func (w *World) Up(ctx context.Context) error {
	if err := w.lock(); err != nil {
		return err
	}
	if err := w.clear(); err != nil { // what an earlier run left
		return fmt.Errorf("clear the world of an earlier run: %w", err)
	}
	if err := os.RemoveAll(w.opts.Dir); err != nil {
		return fmt.Errorf("clear the world of an earlier run: %w", err)
	}
	if err := os.MkdirAll(w.opts.Dir, 0o755); err != nil {
		return fmt.Errorf("create world: %w", err)
	}
	if err := w.net.CreateBridge(); err != nil {
		return err
	}
	if err := w.prepareCloud(); err != nil {
		return err
	}
	if err := w.startCloud(ctx); err != nil {
		return err
	}
	if err := w.awaitCredentials(ctx); err != nil {
		return err
	}
	for _, s := range w.Sites {
		if err := s.create(); err != nil {
			return fmt.Errorf("create site %s: %w", s.Name, err)
		}
	}
	if s := w.fullSite(); s != nil {
		if err := w.images.Start(); err != nil {
			return err
		}
		if err := s.Runtime.start(ctx); err != nil {
			return err
		}
	}
	for _, s := range w.Sites {
		if err := s.Leaf.Start(); err != nil {
			return err
		}
	}
	for _, s := range w.Sites {
		if err := s.AwaitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

// startCloud starts control plane, hub and bridges.
func (w *World) startCloud(ctx context.Context) error {
	if err := w.ControlPlane.Start(); err != nil {
		return err
	}
	if err := w.Hub.Start(); err != nil {
		return err
	}
	if err := w.ControlPlane.AwaitReady(ctx); err != nil {
		return err
	}
	if err := w.apply(ctx); err != nil {
		return err
	}
	for _, b := range w.Bridges {
		if err := b.open(); err != nil {
			return err
		}
		if err := b.Start(); err != nil {
			return err
		}
	}
	return nil
}

// apply puts the definitions, the rights of the bridge and the Sites into the API.
func (w *World) apply(ctx context.Context) error {
	applier, err := cluster.NewApplier(w.REST)
	if err != nil {
		return err
	}
	manifests := []string{filepath.Join(w.opts.Root, "deploy/kubernetes/crds"), filepath.Join(w.opts.Root, "deploy/kubernetes/rbac.yaml")}
	for _, name := range w.siteNames() {
		path := filepath.Join(w.opts.Dir, "sites", name+".yaml")
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("write manifest of %s: %w", name, err)
		}
		gateway, err := credential.Seed(w.gatewaySeed(name))
		if err != nil {
			return err
		}
		next, err := credential.Seed(w.gatewaySeed(cloneOf(name)))
		if err != nil {
			return err
		}
		manifest := fmt.Sprintf("apiVersion: petiole.dev/v1alpha1\nkind: Site\nmetadata: {name: %s}\nspec: {gateways: [%s, %s], nodes: {pattern: \"%s-*\", max: 10}}\n",
			name, gateway, next, name)
		if err := os.WriteFile(path, []byte(manifest), 0o644); err != nil {
			return fmt.Errorf("write manifest of %s: %w", name, err)
		}
		manifests = append(manifests, path)
	}
	_, err = applier.Apply(ctx, manifests...)
	return err
}

// awaitCredentials waits until a bridge has made the accounts of all sites, and writes what their
// gateways connect with.
func (w *World) awaitCredentials(ctx context.Context) error {
	for _, name := range w.siteNames() {
		err := await(ctx, "the account of "+name, func(ctx context.Context) error {
			return cluster.WriteCredentials(ctx, w.Dynamic, name, w.gatewaySeed(name), w.gatewaySeed(cloneOf(name)))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Close stops and removes everything but the files, and releases the lock.
func (w *World) Close() error {
	if w.locked == nil {
		return nil // it was never up
	}
	return errors.Join(w.clear(), w.locked.Close())
}

// clear stops and removes everything, including what an earlier process left behind, and goes
// on after an error.
func (w *World) clear() error {
	var errs []error
	note := func(err error) { errs = append(errs, err) }
	for _, s := range w.Sites {
		note(s.destroy())
	}
	for _, name := range []string{"bridge-a", "bridge-b", "hub", "controlplane", "registry"} {
		note(w.set.Kill(name))
	}
	for _, b := range w.Bridges {
		note(b.close())
	}
	note(w.simulatedLink().DeleteFilter())
	note(w.net.DeleteBridge())
	return errors.Join(errs...)
}

// Admin connects to the bridge's account at the hub, as an operator does.
func (w *World) Admin(opts ...nats.Option) (*nats.Conn, error) {
	creds := nats.UserCredentials(w.operator().File(accounts.AdminCreds))
	opts = append([]nats.Option{creds, nats.Name("breaker"), nats.MaxReconnects(-1), nats.ReconnectWait(200 * time.Millisecond), nats.RetryOnFailedConnect(true)}, opts...)
	nc, err := nats.Connect("nats://"+hubClients, opts...)
	if err != nil {
		return nil, fmt.Errorf("connect to the hub: %w", err)
	}
	return nc, nil
}

// Processes returns all parts that run in processes of their own.
func (w *World) Processes() []*Process {
	all := []*Process{w.ControlPlane.Process, w.Hub}
	for _, b := range w.Bridges {
		all = append(all, b.Process)
	}
	for _, s := range w.Sites {
		all = append(all, s.Leaf)
		if s.Runtime != nil {
			all = append(all, s.Runtime.CRIO)
		}
	}
	return all
}

// siteNames returns the names of all sites.
func (w *World) siteNames() []string {
	var names []string
	for _, s := range w.Sites {
		names = append(names, s.Name)
	}
	for i := range w.opts.Simulated {
		names = append(names, SimulatedName(i))
	}
	return names
}

// operator returns the keys and the credentials of the hub.
func (w *World) operator() fabric.Operator {
	return fabric.Operator(filepath.Join(w.opts.Dir, "nats", "operator"))
}

// gatewaySeed returns the file with the key of a site's gateway; its credentials are in
// gatewayCreds.
func (w *World) gatewaySeed(name string) string {
	return filepath.Join(w.opts.Dir, "nats", name+".nk")
}

func (w *World) gatewayCreds(name string) string {
	return filepath.Join(w.opts.Dir, "nats", name+".creds")
}

// await polls until probe returns nil.
func await(ctx context.Context, what string, probe func(context.Context) error) error {
	for {
		look, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := probe(look)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("await %s: %w (last look: %w)", what, ctx.Err(), err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
