package delivery

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/internal/breaker/world"
	"github.com/petiole-io/petiole/streams"
)

const (
	// mapsPerPod is the number of ConfigMaps one pod refers to.
	mapsPerPod = 200
	// writers change objects in parallel.
	writers = 16
	counter = "n"
)

// bench is one run while it lasts.
type bench struct {
	opts  Options
	world *world.World
	out   io.Writer
	dir   string
	kube  kubernetes.Interface
	admin *nats.Conn
	js    jetstream.JetStream
}

func (b *bench) open() error {
	cfg := *b.world.REST
	cfg.QPS, cfg.Burst = 5000, 5000
	var err error
	if b.kube, err = kubernetes.NewForConfig(&cfg); err != nil {
		return fmt.Errorf("create client: %w", err)
	}
	if b.admin, err = b.world.Admin(); err != nil {
		return err
	}
	if b.js, err = jetstream.NewWithDomain(b.admin, streams.HubDomain); err != nil {
		return fmt.Errorf("open JetStream of the hub: %w", err)
	}
	return nil
}

// populate gives a site a node, and pods that refer to ConfigMaps which it creates. The
// node is created here and not by a kubelet.
func (b *bench) populate(ctx context.Context, site string, maps int) error {
	core := b.kube.CoreV1()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: site + "-1", Labels: map[string]string{v1alpha1.SiteLabel: site}}}
	if _, err := core.Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create node of %s: %w", site, err)
	}
	if _, err := core.Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: site}}, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create namespace of %s: %w", site, err)
	}
	err := await(ctx, "the service account of "+site, time.Minute, func(ctx context.Context) error {
		_, err := core.ServiceAccounts(site).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	if err != nil {
		return err
	}
	if err := b.change(ctx, site, maps, 0); err != nil {
		return err
	}
	for first := 0; first < maps; first += mapsPerPod {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "pod-" + strconv.Itoa(first)}, Spec: corev1.PodSpec{
			NodeName: site + "-1", Containers: []corev1.Container{{Name: "c", Image: "none"}},
		}}
		c := &pod.Spec.Containers[0]
		for i := first; i < min(first+mapsPerPod, maps); i++ {
			c.EnvFrom = append(c.EnvFrom, corev1.EnvFromSource{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: mapName(i)}}})
		}
		if _, err := core.Pods(site).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("create pod of %s: %w", site, err)
		}
	}
	return b.awaitPublished(ctx, site, maps)
}

// awaitPublished waits until the hub has at least so many objects for a site: before that
// an empty backlog proves nothing.
func (b *bench) awaitPublished(ctx context.Context, site string, objects int) error {
	s, err := b.js.Stream(ctx, streams.Desired)
	if err != nil {
		return fmt.Errorf("read %s: %w", streams.Desired, err)
	}
	return await(ctx, "the desired state of "+site, 3*time.Minute, func(ctx context.Context) error {
		info, err := s.Info(ctx, jetstream.WithSubjectFilter(streams.DesiredFilter(site)))
		if err == nil && len(info.State.Subjects) < objects {
			err = fmt.Errorf("%d objects are published, want %d", len(info.State.Subjects), objects)
		}
		return err
	})
}

// change writes n into the first ConfigMaps of a site.
func (b *bench) change(ctx context.Context, site string, maps, n int) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(writers)
	for i := range maps {
		g.Go(func() error {
			m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: site, Name: mapName(i)}, Data: map[string]string{counter: strconv.Itoa(n), "fill": fill}}
			_, err := b.kube.CoreV1().ConfigMaps(site).Update(ctx, m, metav1.UpdateOptions{})
			if apierrors.IsNotFound(err) {
				_, err = b.kube.CoreV1().ConfigMaps(site).Create(ctx, m, metav1.CreateOptions{})
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("change ConfigMaps of %s: %w", site, err)
	}
	return nil
}

// fill creates a ConfigMap of a common size.
const fill = "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"

func mapName(i int) string { return "map-" + strconv.Itoa(i) }

// pending returns the hub's count of messages that a site has not stored.
func (b *bench) pending(ctx context.Context, site string) (int, error) {
	c, err := b.js.Consumer(ctx, streams.Desired, site)
	if err != nil {
		return 0, fmt.Errorf("read consumer %s: %w", site, err)
	}
	return int(c.CachedInfo().NumPending) + c.CachedInfo().NumAckPending, nil
}

// awaitPending waits until the backlog of a site is in a range.
func (b *bench) awaitPending(ctx context.Context, site string, least, most int) error {
	return await(ctx, "the backlog of "+site, 3*time.Minute, func(ctx context.Context) error {
		n, err := b.pending(ctx, site)
		if err == nil && (n < least || n > most) {
			err = fmt.Errorf("%d objects are pending, want %d to %d", n, least, most)
		}
		return err
	})
}
