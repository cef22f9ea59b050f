package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/petiole-io/petiole/internal/lab/cluster"
	"github.com/petiole-io/petiole/internal/lab/host"
	"github.com/petiole-io/petiole/internal/lab/network"
	"github.com/petiole-io/petiole/internal/lab/services"
)

// readyTimeout bounds Up. A warm start takes a quarter of it.
const readyTimeout = 3 * time.Minute

// Up starts the parts that do not run and returns when all are ready: the API server
// answers and accepts the samples, and the nodes of every site whose link is up are
// Ready. A part that fails does not stop the parts that do not depend on it; the
// StartError names all that failed. It can be called again after any end.
func (l *Lab) Up(ctx context.Context) error {
	if err := host.Check(); err != nil {
		return err
	}
	if err := l.adopt(); err != nil {
		return err
	}
	if err := l.checkPorts(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := l.net.CreateBridge(); err != nil {
		return err
	}
	if err := l.prepare(); err != nil {
		return err
	}
	failed := failures{l: l}
	var wg sync.WaitGroup
	var cloud bool
	wg.Go(func() { cloud = failed.note(l.upCloud(ctx)) })
	sites := l.sites()
	runtimes := make([]bool, len(sites))
	for i, s := range sites {
		wg.Go(func() { runtimes[i] = l.upRuntime(ctx, s, &failed) })
	}
	wg.Wait()
	// Leaves come last: one that asks for its consumer before the bridge has created it
	// gets an error, and waits up to 5 s before it asks again.
	if cloud {
		for i, s := range sites {
			if runtimes[i] {
				wg.Go(func() { failed.note(l.upNode(ctx, s)) })
			}
		}
		wg.Go(func() { failed.note(l.awaitSamples(ctx)) })
		wg.Wait()
	}
	return failed.result(ctx)
}

// InstallServices gives the sites kube-proxy and CoreDNS. It does not wait until they run.
func (l *Lab) InstallServices(ctx context.Context) error {
	return services.Install(ctx, services.Config{
		Programs: filepath.Dir(l.bin("kube-proxy")), Manifest: filepath.Join(l.root, "deploy/kubernetes/sites/services.yaml"),
		Registry: ImagesAddress, Kubeconfig: l.Kubeconfig(), Rendered: filepath.Join(l.dir, "services.yaml"),
	})
}

// upRuntime starts the parts that the site's leaf needs and reports whether the leaf can start.
// A Modbus slave that fails affects the devices only.
func (l *Lab) upRuntime(ctx context.Context, s site, failed *failures) bool {
	if !failed.note(l.net.CreateSite(s.Site)) {
		return false
	}
	modbus, crio := l.startRuntime(ctx, s)
	failed.note(modbus)
	return failed.note(crio)
}

// upNode starts the leaf, and waits for the node if the site is not cut off.
func (l *Lab) upNode(ctx context.Context, s site) error {
	if err := l.startLeaf(ctx, s); err != nil {
		return err
	}
	if state := l.net.State(s.Site); state != network.Up {
		l.out.say("%s: not waiting for its node, the link is %s", s.Name, state)
		return nil
	}
	return l.awaitNode(ctx, s)
}

func (l *Lab) upCloud(ctx context.Context) error {
	for _, name := range []string{partRegistry, partControlPlane, partHub} {
		if err := l.start(l.centralPart(name)); err != nil {
			return err
		}
	}
	for _, name := range []string{partRegistry, partHub} {
		if err := l.await(ctx, l.centralPart(name)); err != nil {
			return err
		}
	}
	if err := l.await(ctx, l.centralPart(partControlPlane)); err != nil {
		return err
	}
	cfg, err := cluster.Config(l.Kubeconfig())
	if err != nil {
		return err
	}
	l.out.say("control plane ready at %s", cfg.Host)
	applier, err := cluster.NewApplier(cfg)
	if err != nil {
		return err
	}
	manifests := []string{filepath.Join(l.root, "deploy/kubernetes/crds"), filepath.Join(l.root, "deploy/kubernetes/rbac.yaml"), filepath.Join(l.root, "deploy/kubernetes/tolerations-policy.yaml"), filepath.Join(l.root, "deploy/kubernetes/devices-policy.yaml")}
	for _, s := range l.sites() {
		manifests = append(manifests, filepath.Join(s.dir, "site.yaml"))
	}
	n, err := applier.Apply(ctx, manifests...)
	if err != nil {
		return err
	}
	l.out.say("%d manifests applied", n)
	bridge := l.centralPart(partBridge)
	if err := l.start(bridge); err != nil {
		return err
	}
	for _, s := range l.sites() {
		if err := l.awaitCredentials(ctx, s); err != nil {
			return err
		}
	}
	return l.await(ctx, bridge)
}

// controlPlaneProbe needs the credentials, which exist once the part is started.
func (l *Lab) controlPlaneProbe(ctx context.Context) error {
	cfg, err := cluster.Config(l.Kubeconfig())
	if err != nil {
		return err
	}
	return cluster.AwaitReady(ctx, cfg)
}

// startRuntime starts the parts that the site's leaf needs: CRI-O and the Modbus slave.
func (l *Lab) startRuntime(ctx context.Context, s site) (modbus, crio error) {
	if err := os.MkdirAll(s.crio.RunDir, 0o711); err != nil {
		return nil, fmt.Errorf("create run directory: %w", err)
	}
	crio, modbus = l.start(l.crioPart(s)), l.start(l.modbusPart(s))
	if crio == nil {
		crio = l.await(ctx, l.crioPart(s))
	}
	if modbus == nil {
		modbus = l.await(ctx, l.modbusPart(s))
	}
	return modbus, crio
}

func (l *Lab) startLeaf(ctx context.Context, s site) error {
	if err := l.start(l.leafPart(s)); err != nil {
		return err
	}
	return l.await(ctx, l.leafPart(s))
}

// samplesTimeout bounds the time until the API server serves the applied definitions.
const samplesTimeout = 20 * time.Second

// awaitSamples blocks until the API server would accept the samples, which a newcomer applies
// first.
func (l *Lab) awaitSamples(ctx context.Context) error {
	cfg, err := cluster.Config(l.Kubeconfig())
	if err != nil {
		return err
	}
	applier, err := cluster.NewApplier(cfg)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, samplesTimeout)
	defer cancel()
	for {
		err := applier.Check(ctx, filepath.Join(l.root, "deploy/lab/samples"))
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return fmt.Errorf("await the samples: %w", ctx.Err())
			}
			return l.idle(fmt.Errorf("the API server does not accept the samples: %w", err), partControlPlane)
		case <-time.After(200 * time.Millisecond):
		}
	}
}
