package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/internal/e2e/rig"
)

// namespaceGone bounds how long the pods of a test may take to go.
const namespaceGone = 90 * time.Second

// newNamespace creates a namespace that is gone, with all that the site had of it, when
// the test has ended.
func newNamespace(t *testing.T, theme string) string {
	t.Helper()
	name := fmt.Sprintf("e2e-%s-%05d", theme, rand.IntN(100_000))
	_, err := lab.Kube.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	must(t, err)
	t.Cleanup(func() { dropNamespace(t, name) })
	eventually(t, 20*time.Second, "the default service account of "+name, func(ctx context.Context) error {
		if _, err := lab.Kube.CoreV1().ServiceAccounts(name).Get(ctx, "default", metav1.GetOptions{}); err != nil {
			return err
		}
		_, err := lab.Kube.CoreV1().ConfigMaps(name).Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
		return err
	})
	return name
}

func dropNamespace(t *testing.T, name string) {
	ctx, cancel := context.WithTimeout(context.Background(), namespaceGone)
	defer cancel()
	if err := lab.Kube.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		t.Errorf("delete namespace %s: %v", name, err)
		return
	}
	err := rig.Poll(ctx, "namespace "+name+" is gone everywhere", func(ctx context.Context) error {
		if _, err := lab.Kube.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the API still has it (%w)", err)
		}
		for _, s := range lab.Sites {
			left, err := s.Runtime.Sandboxes(ctx, name)
			if err != nil {
				return err
			}
			if len(left) > 0 {
				return fmt.Errorf("%s still runs pods %v", s.Name, left)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// podsOf lists the pods of a namespace by name.
func podsOf(ctx context.Context, namespace, selector string) ([]corev1.Pod, error) {
	list, err := lab.Kube.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

// allReady returns nil when exactly want pods match and each is Ready and not being
// deleted.
func allReady(namespace, selector string, want int) func(context.Context) error {
	return func(ctx context.Context) error {
		pods, err := podsOf(ctx, namespace, selector)
		if err != nil {
			return err
		}
		if len(pods) != want {
			return fmt.Errorf("%d pods match %q, want %d", len(pods), selector, want)
		}
		for i := range pods {
			if err := ready(&pods[i]); err != nil {
				return err
			}
		}
		return nil
	}
}

func ready(p *corev1.Pod) error {
	if p.DeletionTimestamp != nil {
		return fmt.Errorf("pod %s is being deleted", p.Name)
	}
	if c := podCondition(p, corev1.PodReady); c == nil || c.Status != corev1.ConditionTrue {
		return fmt.Errorf("pod %s is %s, Ready %+v, containers %s", p.Name, p.Status.Phase, c, containerStates(p))
	}
	return nil
}

func podCondition(p *corev1.Pod, typ corev1.PodConditionType) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == typ {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

func containerStates(p *corev1.Pod) string {
	var out string
	for _, c := range p.Status.ContainerStatuses {
		switch {
		case c.State.Running != nil:
			out += fmt.Sprintf("[%s running, %d restarts]", c.Name, c.RestartCount)
		case c.State.Waiting != nil:
			out += fmt.Sprintf("[%s waits: %s %s]", c.Name, c.State.Waiting.Reason, c.State.Waiting.Message)
		case c.State.Terminated != nil:
			out += fmt.Sprintf("[%s ended: %s %d]", c.Name, c.State.Terminated.Reason, c.State.Terminated.ExitCode)
		}
	}
	return out
}

func nodeCondition(n *corev1.Node, typ corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range n.Status.Conditions {
		if n.Status.Conditions[i].Type == typ {
			return &n.Status.Conditions[i]
		}
	}
	return nil
}

// nodeReady returns nil when the API shows the node Ready without link taints.
func nodeReady(node string) func(context.Context) error {
	return func(ctx context.Context) error {
		n, err := lab.Kube.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if c := nodeCondition(n, corev1.NodeReady); c == nil || c.Status != corev1.ConditionTrue {
			return fmt.Errorf("node %s: Ready is %+v", node, c)
		}
		for _, taint := range n.Spec.Taints {
			if taint.Key == corev1.TaintNodeUnreachable || taint.Key == corev1.TaintNodeNotReady {
				return fmt.Errorf("node %s has taint %s", node, taint.ToString())
			}
		}
		return nil
	}
}

func configMap(t *testing.T, namespace, name string, data map[string]string) {
	t.Helper()
	_, err := lab.Kube.CoreV1().ConfigMaps(namespace).Create(t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data,
	}, metav1.CreateOptions{})
	must(t, err)
}

// setConfigMap replaces the data of a ConfigMap.
func setConfigMap(t *testing.T, namespace, name string, data map[string]string) {
	t.Helper()
	_, err := lab.Kube.CoreV1().ConfigMaps(namespace).Update(t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data,
	}, metav1.UpdateOptions{})
	must(t, err)
}

func secret(t *testing.T, namespace, name string, data map[string]string) {
	t.Helper()
	_, err := lab.Kube.CoreV1().Secrets(namespace).Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: name}, StringData: data,
	}, metav1.CreateOptions{})
	must(t, err)
}
