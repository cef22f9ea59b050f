package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/petiole-io/petiole/internal/e2e/rig"
)

// A plant is a site with work in one namespace: a Deployment of web pods; a pod to be
// deleted, one whose container will die, one with a token; and one that mounts many
// ConfigMaps.
type plant struct {
	site *rig.Site
	ns   string
	many int // ConfigMaps of the reader pod
}

const (
	doomed  = "doomed"  // a pod that a test deletes
	fragile = "fragile" // a pod whose container a test kills
	keeper  = "keeper"  // a default pod, with a token
	reader  = "reader"  // a pod with many ConfigMaps
	mortal  = "mortal"  // a pod that may be evicted
)

// newPlant returns when all pods are Ready and the site has acknowledged everything.
func newPlant(t *testing.T, site *rig.Site, theme string, replicas int32, many int) *plant {
	t.Helper()
	p := &plant{site: site, ns: newNamespace(t, theme), many: many}
	configMap(t, p.ns, settingsName, map[string]string{"greeting": "start"})
	secret(t, p.ns, credentialsName, map[string]string{"password": "hunter2"})
	for i := range many {
		configMap(t, p.ns, p.manyName(i), map[string]string{p.manyName(i): "start"})
	}
	_, err := lab.Kube.AppsV1().Deployments(p.ns).Create(t.Context(), webDeployment(site, "web", replicas), metav1.CreateOptions{})
	must(t, err)
	pods := []*corev1.Pod{sleeperPod(site, doomed, true), sleeperPod(site, fragile, true), sleeperPod(site, keeper, false)}
	if many > 0 {
		pods = append(pods, p.readerPod())
	}
	for _, pod := range pods {
		_, err := lab.Kube.CoreV1().Pods(p.ns).Create(t.Context(), pod, metav1.CreateOptions{})
		must(t, err)
	}
	took := eventually(t, 2*time.Minute, "all pods of "+p.ns+" are Ready", allReady(p.ns, "", int(replicas)+len(pods)))
	t.Logf("%d pods of %s Ready after %s", int(replicas)+len(pods), p.ns, took.Round(time.Millisecond))
	return p
}

func (p *plant) manyName(i int) string { return fmt.Sprintf("many-%03d", i) }

// readerPod mounts the many ConfigMaps, 40 to a volume.
func (p *plant) readerPod() *corev1.Pod {
	pod := sleeperPod(p.site, reader, true)
	for first := 0; first < p.many; first += 40 {
		var sources []corev1.VolumeProjection
		for i := first; i < min(first+40, p.many); i++ {
			sources = append(sources, corev1.VolumeProjection{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: p.manyName(i)}}})
		}
		name := fmt.Sprintf("many-%d", first/40)
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: sources}}})
		pod.Spec.Containers[0].VolumeMounts = append(pod.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: name, MountPath: "/" + name})
	}
	c := &pod.Spec.Containers[0]
	c.Name, c.Image = "web", lab.Image("web")
	c.Command = []string{"/bin/httpd", "-f", "-p", webPort, "-h", "/"}
	return pod
}

// settle waits until the site has stored everything, and returns its desired state at that
// time.
func (p *plant) settle(t *testing.T) content {
	t.Helper()
	eventually(t, time.Minute, p.site.Name+" has everything", converged(p.site))
	var before content
	eventually(t, time.Minute, "nothing is pending for "+p.site.Name, func(ctx context.Context) (err error) {
		if before, err = wanted(ctx, p.site.Name); err != nil {
			return err
		}
		return backlogIs(p.site, before)(ctx)
	})
	return before
}

// cut takes the site's link down; it is healed when the test ends.
func (p *plant) cut(t *testing.T) {
	t.Helper()
	p.healAtEnd(t)
	must(t, lab.Cut(t.Context(), p.site))
}

// cutSilently is cut with packets that are dropped: neither end sees an error.
func (p *plant) cutSilently(t *testing.T) {
	t.Helper()
	p.healAtEnd(t)
	must(t, lab.CutSilently(t.Context(), p.site))
}

func (p *plant) healAtEnd(t *testing.T) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		if err := lab.Heal(ctx, p.site); err != nil {
			t.Error(err)
		}
		if err := rig.Poll(ctx, p.site.Node+" is Ready again", nodeReady(p.site.Node)); err != nil {
			t.Error(err)
		}
	})
}

func (p *plant) scale(t *testing.T, replicas int) {
	t.Helper()
	patch := fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, replicas)
	_, err := lab.Kube.AppsV1().Deployments(p.ns).Patch(t.Context(), "web", types.MergePatchType, patch, metav1.PatchOptions{})
	must(t, err)
	eventually(t, 20*time.Second, fmt.Sprintf("%d web pods are bound to %s", replicas, p.site.Node), func(ctx context.Context) error {
		pods, err := podsOf(ctx, p.ns, "app=web")
		if err != nil {
			return err
		}
		bound := 0
		for _, pod := range pods {
			if pod.Spec.NodeName == p.site.Node && pod.DeletionTimestamp == nil {
				bound++
			}
		}
		if bound != replicas {
			return fmt.Errorf("%d are", bound)
		}
		return nil
	})
}

func (p *plant) deletePod(t *testing.T, name string) {
	t.Helper()
	must(t, lab.Kube.CoreV1().Pods(p.ns).Delete(t.Context(), name, metav1.DeleteOptions{}))
}

func (p *plant) pod(ctx context.Context, name string) (*corev1.Pod, error) {
	return lab.Kube.CoreV1().Pods(p.ns).Get(ctx, name, metav1.GetOptions{})
}

// podGone returns nil when neither the API nor the site has the pod.
func (p *plant) podGone(name, uid string) func(context.Context) error {
	return func(ctx context.Context) error {
		if _, err := p.pod(ctx, name); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the API has pod %s (%w)", name, err)
		}
		sandboxes, err := p.site.Runtime.Sandboxes(ctx, p.ns)
		if err != nil {
			return err
		}
		if slices.Contains(sandboxes, uid) {
			return fmt.Errorf("%s runs pod %s", p.site.Name, name)
		}
		return nil
	}
}

// running returns the ids of the running containers of the namespace at the site, by pod
// UID and container name.
func (p *plant) running(ctx context.Context) (map[string]string, error) {
	containers, err := p.site.Runtime.Containers(ctx, p.ns)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, c := range containers {
		if c.Running {
			out[c.PodUID+"/"+c.Name] = c.ID
		}
	}
	return out, nil
}

// stillRunning fails the test when a container of before, unless its pod is among the
// dead, no longer runs or was replaced.
func (p *plant) stillRunning(t *testing.T, before map[string]string, dead ...string) {
	t.Helper()
	now := got[map[string]string](t)(p.running(t.Context()))
	for key, id := range before {
		if uid, _, _ := strings.Cut(key, "/"); slices.Contains(dead, uid) {
			continue
		}
		if now[key] != id {
			t.Errorf("container %s was restarted: it is %q, before %q", key, now[key], id)
		}
	}
	t.Logf("%d containers compared", len(before))
}

// truthful returns nil when the API's status of every pod of the namespace at the site
// agrees with the runtime, and the runtime runs no other pod.
func (p *plant) truthful(ctx context.Context) error {
	pods, err := podsOf(ctx, p.ns, "")
	if err != nil {
		return err
	}
	running, err := p.running(ctx)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, pod := range pods {
		if pod.Spec.NodeName != p.site.Node {
			return fmt.Errorf("pod %s is on %q, want %s", pod.Name, pod.Spec.NodeName, p.site.Node)
		}
		if err := ready(&pod); err != nil {
			return err
		}
		known[string(pod.UID)] = true
		for _, c := range pod.Status.ContainerStatuses {
			_, id, _ := strings.Cut(c.ContainerID, "://")
			if truth := running[string(pod.UID)+"/"+c.Name]; c.State.Running == nil || truth != id {
				return fmt.Errorf("the API says container %s of pod %s is %s %+v, the runtime runs %q", c.Name, pod.Name, id, c.State, truth)
			}
		}
	}
	sandboxes, err := p.site.Runtime.Sandboxes(ctx, p.ns)
	if err != nil {
		return err
	}
	for _, uid := range sandboxes {
		if !known[uid] {
			return fmt.Errorf("%s runs pod %s, which the API does not have", p.site.Name, uid)
		}
	}
	if len(sandboxes) != len(known) {
		return fmt.Errorf("%s runs %d pods, the API has %d", p.site.Name, len(sandboxes), len(known))
	}
	return nil
}
