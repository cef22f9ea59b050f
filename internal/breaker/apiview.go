package breaker

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"github.com/petiole-io/petiole/internal/breaker/check"
)

// apiView follows the sites' objects at the API server: the status of their pods and
// the leases of their nodes.
type apiView struct {
	kube     kubernetes.Interface
	record   *recorder
	siteOf   func(node string) string
	pausable *pausable
}

func (v *apiView) run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, follow := range []func(context.Context){v.pods, v.leases} {
		wg.Go(func() {
			for sleep(ctx, 200*time.Millisecond) {
				v.pausable.do(ctx, follow)
			}
		})
	}
	wg.Wait()
}

// pods runs one list and the watch after it.
func (v *apiView) pods(ctx context.Context) {
	c := v.kube.CoreV1().Pods("")
	look, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	list, err := c.List(look, metav1.ListOptions{})
	if err != nil {
		return
	}
	for i := range list.Items {
		v.pod(&list.Items[i])
	}
	w, err := c.Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		return
	}
	each(ctx, w, func(e watch.Event) {
		if p, ok := e.Object.(*corev1.Pod); ok && e.Type != watch.Deleted {
			v.pod(p)
		}
	})
}

func (v *apiView) pod(p *corev1.Pod) {
	about, number, ok := strings.Cut(p.Status.Message, "/")
	n, err := strconv.ParseInt(number, 10, 64)
	if !ok || err != nil {
		return
	}
	e := check.Event{
		Kind: check.Status, Site: v.siteOf(p.Spec.NodeName), Object: objectName("pods", p.Namespace, p.Name),
		UID: string(p.UID), About: about, N: n, Phase: string(p.Status.Phase),
	}
	for _, c := range p.Status.ContainerStatuses {
		e.Restarts += int64(c.RestartCount)
	}
	v.record.add(e)
}

// leases runs one list and the watch after it.
func (v *apiView) leases(ctx context.Context) {
	c := v.kube.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	look, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	list, err := c.List(look, metav1.ListOptions{})
	if err != nil {
		return
	}
	w, err := c.Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		return
	}
	each(ctx, w, func(e watch.Event) {
		if l, ok := e.Object.(*coordinationv1.Lease); ok && e.Type == watch.Modified {
			v.record.add(check.Event{Kind: check.Renewed, Site: v.siteOf(l.Name)})
		}
	})
}

// each calls f for every event until the watch ends.
func each(ctx context.Context, w watch.Interface, f func(watch.Event)) {
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-w.ResultChan():
			if !ok || e.Type == watch.Error {
				return
			}
			f(e)
		}
	}
}
