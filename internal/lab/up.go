package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/petiole-io/petiole/internal/lab/cluster"
	"github.com/petiole-io/petiole/internal/lab/host"
	"github.com/petiole-io/petiole/internal/lab/network"
)

// readyTimeout bounds Up. A warm start takes a quarter of it.
const readyTimeout = 3 * time.Minute

// Up starts what does not run and returns when all of it does its work: the API server
// answers, and the nodes of every site whose link is up are Ready.
func (l *Lab) Up(ctx context.Context) error {
	if err := host.Check(); err != nil {
		return err
	}
	if err := l.checkPorts(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := l.net.Lay(); err != nil {
		return err
	}
	if err := l.prepare(); err != nil {
		return err
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error { return l.upCentre(groupCtx) })
	for _, s := range l.sites() {
		group.Go(func() error {
			if err := l.net.Join(s.Site); err != nil {
				return err
			}
			return l.startRuntime(groupCtx, s)
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	// Leaves come last: one that asks for its consumer before the bridge has made it
	// is answered no, and nats-server then waits up to a minute before it asks again.
	for _, s := range l.sites() {
		if err := l.startLeaf(ctx, s); err != nil {
			return err
		}
	}
	return l.awaitNodes(ctx)
}

func (l *Lab) upCentre(ctx context.Context) error {
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
	cfg, err := cluster.Config(l.Kubeconfig())
	if err != nil {
		return err
	}
	err = l.awaitCondition(ctx, partControlPlane, func(ctx context.Context) error { return cluster.AwaitReady(ctx, cfg) })
	if err != nil {
		return err
	}
	l.out.say("control plane ready at %s", cfg.Host)
	applier, err := cluster.NewApplier(cfg)
	if err != nil {
		return err
	}
	manifests := []string{filepath.Join(l.root, "deploy/kubernetes/crds"), filepath.Join(l.root, "deploy/kubernetes/rbac.yaml")}
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
	return l.await(ctx, bridge)
}

// startRuntime starts what the site's leaf needs.
func (l *Lab) startRuntime(ctx context.Context, s site) error {
	if err := os.MkdirAll(s.crio.RunDir, 0o711); err != nil {
		return fmt.Errorf("make run directory: %w", err)
	}
	parts := []part{l.crioPart(s), l.modbusPart(s)}
	for _, p := range parts {
		if err := l.start(p); err != nil {
			return err
		}
	}
	for _, p := range parts {
		if err := l.await(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

func (l *Lab) startLeaf(ctx context.Context, s site) error {
	if err := l.start(l.leafPart(s)); err != nil {
		return err
	}
	return l.await(ctx, l.leafPart(s))
}

func (l *Lab) awaitNodes(ctx context.Context) error {
	cfg, err := cluster.Config(l.Kubeconfig())
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("make client: %w", err)
	}
	for _, s := range l.sites() {
		if state := l.net.State(s.Site); state != network.Up {
			l.out.say("%s: not waiting for its node, the link is %s", s.Name, state)
			continue
		}
		err := l.awaitCondition(ctx, "leaf-"+s.Name, func(ctx context.Context) error {
			node, err := client.CoreV1().Nodes().Get(ctx, s.node(), metav1.GetOptions{})
			if err != nil {
				return err
			}
			return nodeReady(node)
		})
		if err != nil {
			return err
		}
		l.out.say("node %s is Ready", s.node())
	}
	return nil
}

func nodeReady(node *corev1.Node) error {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			if c.Status == corev1.ConditionTrue {
				return nil
			}
			return fmt.Errorf("node %s is not ready: %s: %s", node.Name, c.Reason, c.Message)
		}
	}
	return fmt.Errorf("node %s has no Ready condition yet", node.Name)
}
