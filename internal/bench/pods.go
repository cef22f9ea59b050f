package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"github.com/petiole-io/petiole/internal/e2e/rig"
)

// namespace holds every object of a benchmark; it is created and deleted.
const namespace = "petiole-bench"

// runningLimit bounds the wait for a pod.
const runningLimit = 2 * time.Minute

func nodeReady(ctx context.Context, kube kubernetes.Interface, name string) error {
	n, err := kube.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
			return nil
		}
	}
	return fmt.Errorf("node %s is not ready", name)
}

// createNamespace creates the namespace and returns a function that deletes it.
func createNamespace(ctx context.Context, kube kubernetes.Interface) (remove func() error, err error) {
	remove = func() error { // also once ctx has ended
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), runningLimit)
		defer cancel()
		err := kube.CoreV1().Namespaces().Delete(ctx, namespace, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("remove namespace %s: %w", namespace, err)
		}
		return rig.Poll(ctx, "namespace "+namespace+" is gone", func(ctx context.Context) error {
			_, err := kube.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return nil
			}
			return errors.Join(errors.New("still there"), err)
		})
	}
	if err := remove(); err != nil { // of a run that was killed
		return nil, err
	}
	_, err = kube.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("create namespace %s: %w", namespace, err)
	}
	err = rig.Poll(ctx, "the default service account", func(ctx context.Context) error {
		if _, err := kube.CoreV1().ServiceAccounts(namespace).Get(ctx, "default", metav1.GetOptions{}); err != nil {
			return err
		}
		_, err := kube.CoreV1().ConfigMaps(namespace).Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
		return err
	})
	return remove, err
}

// pod is one container that sleeps, placed by the scheduler on the node.
func (b *bench) pod(n *node, name string, token bool) *corev1.Pod {
	grace := int64(1)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"node": n.name}},
		Spec: corev1.PodSpec{
			NodeSelector:                  map[string]string{corev1.LabelHostname: n.name},
			TerminationGracePeriodSeconds: &grace, AutomountServiceAccountToken: &token,
			Containers: []corev1.Container{{Name: "sleeper", Image: b.rig.Image("sleeper"), Command: []string{"/bin/sleep", "infinity"}}},
		},
	}
}

// createAndAwait creates the pods at once and returns how long it took until the API
// showed the last of them Running. The clock starts before the first request.
func (b *bench) createAndAwait(ctx context.Context, pods ...*corev1.Pod) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, runningLimit)
	defer cancel()
	api := b.rig.Kube.CoreV1().Pods(namespace)
	list, err := api.List(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, fmt.Errorf("list pods: %w", err)
	}
	w, err := api.Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		return 0, fmt.Errorf("watch pods: %w", err)
	}
	defer w.Stop()
	waiting := map[string]bool{}
	start := time.Now()
	for _, p := range pods {
		if _, err := api.Create(ctx, p, metav1.CreateOptions{}); err != nil {
			return 0, fmt.Errorf("create pod %s: %w", p.Name, err)
		}
		waiting[p.Name] = true
	}
	for e := range w.ResultChan() {
		if e.Type == watch.Error {
			return 0, fmt.Errorf("watch pods: %w", apierrors.FromObject(e.Object))
		}
		p, ok := e.Object.(*corev1.Pod)
		if !ok || !waiting[p.Name] || p.Status.Phase != corev1.PodRunning {
			continue
		}
		if delete(waiting, p.Name); len(waiting) == 0 {
			return time.Since(start), nil
		}
	}
	return 0, fmt.Errorf("%d pods are not Running: %w", len(waiting), errors.Join(errors.New("the watch ended"), ctx.Err()))
}

// deleteAndAwait deletes a pod and returns how long it took until the API had it no
// more.
func (b *bench) deleteAndAwait(ctx context.Context, name string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, runningLimit)
	defer cancel()
	api := b.rig.Kube.CoreV1().Pods(namespace)
	w, err := api.Watch(ctx, metav1.SingleObject(metav1.ObjectMeta{Name: name}))
	if err != nil {
		return 0, fmt.Errorf("watch pod %s: %w", name, err)
	}
	defer w.Stop()
	start := time.Now()
	if err := api.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return 0, fmt.Errorf("delete pod %s: %w", name, err)
	}
	for e := range w.ResultChan() {
		switch e.Type {
		case watch.Deleted:
			return time.Since(start), nil
		case watch.Error:
			return 0, fmt.Errorf("watch pod %s: %w", name, apierrors.FromObject(e.Object))
		}
	}
	return 0, fmt.Errorf("pod %s is not gone: %w", name, errors.Join(errors.New("the watch ended"), ctx.Err()))
}

// clear deletes all pods of the namespace and returns when they are gone.
func (b *bench) clear(ctx context.Context) error {
	api := b.rig.Kube.CoreV1().Pods(namespace)
	if err := api.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		return fmt.Errorf("delete pods: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, runningLimit)
	defer cancel()
	return rig.Poll(ctx, "all pods are gone", func(ctx context.Context) error {
		list, err := api.List(ctx, metav1.ListOptions{})
		if err == nil && len(list.Items) > 0 {
			err = fmt.Errorf("%d are left", len(list.Items))
		}
		return err
	})
}
