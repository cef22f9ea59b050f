package e2e

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/petiole-io/petiole/internal/e2e/rig"
	"github.com/petiole-io/petiole/internal/lab/cluster"
)

// rebootGoal is from the leaf's start to all pods running.
const rebootGoal = 5 * time.Second

// TestRebootWhileCut power-cycles a site that has no link: its ten pods come back by
// themselves, with ConfigMaps, Secrets, tokens, downward API and ports of the host. KubeEdge never
// restarts a pod with a token here.
func TestRebootWhileCut(t *testing.T) {
	site := lab.Sites[0]
	p := newPlant(t, site, "reboot", 3, 40)
	published := p.publish(t, 3)
	p.settle(t)
	before := got[map[string]string](t)(p.running(t.Context()))
	pods := got[[]corev1.Pod](t)(podsOf(t.Context(), p.ns, ""))
	oldLeaf := got[rig.Process](t)(site.Leaf())
	p.cut(t)
	must(t, lab.Reboot(t.Context(), site))
	var leaf rig.Process
	eventually(t, time.Minute, "a new leaf runs", func(context.Context) (err error) {
		if leaf, err = site.Leaf(); err == nil && leaf.Same(oldLeaf) {
			err = errors.New("the old one still runs")
		}
		return err
	})

	var started time.Time
	eventually(t, 2*time.Minute, "all pods of the site run again", func(ctx context.Context) error {
		all, err := site.Runtime.Containers(ctx, p.ns)
		if err != nil {
			return err
		}
		back := map[string]bool{}
		for _, c := range all {
			key := c.PodUID + "/" + c.Name
			if !c.Running || before[key] == c.ID {
				continue
			}
			back[key] = true
			if c.StartedAt.After(started) {
				started = c.StartedAt
			}
		}
		if len(back) != len(before) {
			return fmt.Errorf("%d of %d containers run", len(back), len(before))
		}
		return nil
	})
	measuredBetween(t, fmt.Sprintf("reboot while cut: leaf start → last of %d pods running", len(before)), leaf.Started, started, rebootGoal)

	for _, pod := range pods {
		if pod.Labels["app"] != "web" {
			continue
		}
		uid := string(pod.UID)
		eventually(t, 20*time.Second, "its ConfigMap", fileIs(site, uid, settingsDir+"greeting", "start"))
		eventually(t, 5*time.Second, "its Secret", fileIs(site, uid, passwordFile, "hunter2"))
		for _, path := range []string{tokenFile, defaultToken} {
			claims := got[tokenClaims](t)(parseToken(got[string](t)(readFile(t.Context(), site, uid, path))))
			if claims.Kubernetes.Pod.UID != uid || time.Unix(claims.Expiry, 0).Before(time.Now()) {
				t.Errorf("token %s of pod %s is for pod %q and valid until %s", path, pod.Name, claims.Kubernetes.Pod.UID, time.Unix(claims.Expiry, 0))
			}
		}
	}

	published.check(t)

	living := got[map[string]string](t)(p.running(t.Context()))
	healAt := time.Now()
	must(t, lab.Heal(t.Context(), site))
	took := timed(t, healAt, convergeLimit, map[string]condition{
		"node Ready in the API":                   nodeReady(site.Node),
		"site stream equals the API":              converged(site),
		"API status equals the truth at the site": p.truthful,
		"the same pods as before":                 samePods(p.ns, pods),
	})
	measured(t, "heal after a reboot → everything converged", last(took), convergeGoal)
	p.stillRunning(t, living)
}

// published are pods with all sources of a projected volume, each at a port of the site.
type published struct {
	site *rig.Site
	host string // the node's own address
	pods map[int32]types.UID
}

// firstHostPort is below the ports from which the site's kernel takes those of connections.
const firstHostPort = 18080

// publish creates n such pods and waits until they are reached.
func (p *plant) publish(t *testing.T, n int32) published {
	t.Helper()
	b, expiry := published{site: p.site, pods: map[int32]types.UID{}}, int64(3600)
	node := got[*corev1.Node](t)(lab.Kube.CoreV1().Nodes().Get(t.Context(), p.site.Node, metav1.GetOptions{}))
	for _, a := range node.Status.Addresses {
		if a.Type == corev1.NodeInternalIP && a.Address != cluster.KubeletsAddress {
			b.host = a.Address
		}
	}
	for i := range n {
		pod := readerPod(p.site, fmt.Sprint("published-", i), corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: settingsName}}},
			{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: credentialsName}}},
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: &expiry}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{Path: "uid", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.uid"}}}}},
		}}})
		port := firstHostPort + i
		pod.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 8080, HostPort: port}}
		b.pods[port] = types.UID(createPod(t, p.ns, pod))
	}
	eventually(t, time.Minute, "the published pods are Ready", func(ctx context.Context) error {
		for i := range n {
			if err := allReady(p.ns, fmt.Sprint("app=published-", i), 1)(ctx); err != nil {
				return err
			}
		}
		return nil
	})
	b.check(t)
	return b
}

// check reads the files of the pods at the ports of the site.
func (b published) check(t *testing.T) {
	t.Helper()
	for port, uid := range b.pods {
		read := func(ctx context.Context, file string) (string, error) {
			return readURL(ctx, b.site, fmt.Sprintf("http://%s:%d%s/%s", b.host, port, mounted, file))
		}
		eventually(t, 20*time.Second, fmt.Sprintf("the pod at port %d of the site has its files", port), func(ctx context.Context) error {
			for file, want := range map[string]string{"greeting": "start", "password": "hunter2", "uid": string(uid)} {
				if has, err := read(ctx, file); err != nil || has != want {
					return fmt.Errorf("%s is %q, want %q: %w", file, has, want, err)
				}
			}
			return nil
		})
		claims := got[tokenClaims](t)(parseToken(got[string](t)(read(t.Context(), "token"))))
		if claims.Kubernetes.Pod.UID != string(uid) || time.Unix(claims.Expiry, 0).Before(time.Now()) {
			t.Errorf("the token at port %d is for pod %q and valid until %s", port, claims.Kubernetes.Pod.UID, time.Unix(claims.Expiry, 0))
		}
	}
}

func samePods(ns string, want []corev1.Pod) condition {
	return func(ctx context.Context) error {
		now, err := podsOf(ctx, ns, "")
		if err != nil {
			return err
		}
		if len(now) != len(want) {
			return fmt.Errorf("the API has %d pods, before %d", len(now), len(want))
		}
		for i := range now { // lists are ordered by name
			if now[i].UID != want[i].UID {
				return fmt.Errorf("pod %s is %s, before %s", now[i].Name, now[i].UID, want[i].UID)
			}
		}
		return nil
	}
}
