package e2e

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/internal/e2e/rig"
)

// convergeLimit ends the wait for what should take convergeGoal.
const (
	convergeGoal  = 5 * time.Second
	convergeLimit = 2 * time.Minute
)

// TestLinkCut is the main promise: with the link cut the site lives on and nobody is
// evicted, the backlog is the number of distinct changed objects, and after the heal
// everything converges without a restart.
func TestLinkCut(t *testing.T) {
	site := lab.Sites[0]
	p := newPlant(t, site, "cut", 3, 200)
	evicted := p.addMortal(t)
	before := p.settle(t)
	dying := got[*corev1.Pod](t)(p.pod(t.Context(), doomed))
	cutAt := time.Now()
	p.cut(t)

	for i := 1; i <= 50; i++ {
		setConfigMap(t, p.ns, settingsName, map[string]string{"greeting": fmt.Sprint("update ", i)})
	}
	p.scale(t, 5)
	p.deletePod(t, doomed)
	for i := range p.many {
		setConfigMap(t, p.ns, p.manyName(i), map[string]string{p.manyName(i): "changed"})
	}

	t.Run("the backlog is the number of distinct changed objects", func(t *testing.T) {
		const want = 1 + 2 + 1 + 200 // the edited ConfigMap, two new pods, the deleted pod, the others
		took := eventually(t, time.Minute, "the backlog is exact", func(ctx context.Context) error {
			now, err := wanted(ctx, site.Name)
			if err != nil {
				return err
			}
			if changed := now.ChangedSince(before); len(changed) < want {
				return fmt.Errorf("%d objects changed in the API, want at least %d", len(changed), want)
			}
			return backlogIs(site, before)(ctx)
		})
		now := got[content](t)(wanted(t.Context(), site.Name))
		t.Logf("backlog of %s: %d, all accounts agree, %s after the changes", site.Name, len(now.ChangedSince(before)), took.Round(time.Millisecond))
		t.Logf("nats consumer report DESIRED\n%s", got[string](t)(lab.Output(t.Context(), "nats", "consumer", "report", "DESIRED")))
	})
	t.Run("a container that dies is restarted by the node", p.testContainerDies)
	t.Run("the API shows the truth and evicts only the pod without toleration", func(t *testing.T) { p.testNotEvicted(t, cutAt) })

	living := got[map[string]string](t)(p.running(t.Context()))
	healAt := time.Now()
	must(t, lab.Heal(t.Context(), site))
	conditions := p.convergence(dying, "update 50", 5)
	conditions["evicted pod gone in the API and at the site"] = p.podGone(evicted.Name, string(evicted.UID))
	took := timed(t, healAt, convergeLimit, conditions)
	measured(t, "heal → everything converged", last(took), convergeGoal)
	p.stillRunning(t, living, string(dying.UID), string(evicted.UID))
}

// addMortal creates a pod that may be evicted one second after its node is unreachable.
// Its eviction shows that the others are not evicted for a reason.
func (p *plant) addMortal(t *testing.T) *corev1.Pod {
	t.Helper()
	pod := sleeperPod(p.site, mortal, true)
	pod.Annotations = map[string]string{"petiole.dev/autonomy-duration": "1s"}
	_, err := lab.Kube.CoreV1().Pods(p.ns).Create(t.Context(), pod, metav1.CreateOptions{})
	must(t, err)
	eventually(t, time.Minute, mortal+" is Ready", allReady(p.ns, "app="+mortal, 1))
	eventually(t, 20*time.Second, "its tolerations are as its annotation says", func(ctx context.Context) error {
		pod, err := p.pod(ctx, mortal)
		if err != nil {
			return err
		}
		if limit := toleration(pod, corev1.TaintNodeUnreachable); limit == nil || *limit != 1 {
			return fmt.Errorf("tolerations are %v", pod.Spec.Tolerations)
		}
		return nil
	})
	return got[*corev1.Pod](t)(p.pod(t.Context(), mortal))
}

// convergence is all that must hold again after a heal: web pods are replicas, and see
// the greeting.
func (p *plant) convergence(dying *corev1.Pod, greeting string, replicas int) map[string]condition {
	return map[string]condition{
		"node Ready in the API":                     nodeReady(p.site.Node),
		"Site connected":                            siteConnected(p.site, true),
		"site stream equals the API":                converged(p.site),
		"API status equals the truth at the site":   p.truthful,
		"deleted pod gone in the API and at site":   p.podGone(dying.Name, string(dying.UID)),
		fmt.Sprint(replicas, " web pods are Ready"): allReady(p.ns, "app=web", replicas),
		"containers see the newest ConfigMap":       p.seenByAll(greeting),
		"nothing pending": func(ctx context.Context) error {
			now, err := wanted(ctx, p.site.Name)
			if err != nil {
				return err
			}
			return backlogIs(p.site, now)(ctx)
		},
	}
}

// seenByAll returns nil when every web pod at the site sees the greeting, and the
// reader the last of its ConfigMaps.
func (p *plant) seenByAll(greeting string) condition {
	return func(ctx context.Context) error {
		pods, err := podsOf(ctx, p.ns, "app=web")
		if err != nil {
			return err
		}
		for _, pod := range pods {
			if err := fileIs(p.site, string(pod.UID), settingsDir+"greeting", greeting)(ctx); err != nil {
				return fmt.Errorf("pod %s: %w", pod.Name, err)
			}
		}
		if p.many == 0 {
			return nil
		}
		pod, err := p.pod(ctx, reader)
		if err != nil {
			return err
		}
		for _, i := range []int{0, p.many - 1} {
			if err := fileIs(p.site, string(pod.UID), fmt.Sprintf("/many-%d/%s", i/40, p.manyName(i)), "changed")(ctx); err != nil {
				return fmt.Errorf("pod %s: %w", pod.Name, err)
			}
		}
		return nil
	}
}

// testContainerDies kills a container's process behind everybody's back.
func (p *plant) testContainerDies(t *testing.T) {
	pod := got[*corev1.Pod](t)(p.pod(t.Context(), fragile))
	find := func(ctx context.Context) (rig.Container, error) {
		all, err := p.site.Runtime.Containers(ctx, p.ns)
		if err != nil {
			return rig.Container{}, err
		}
		for _, c := range all {
			if c.PodUID == string(pod.UID) && c.Running {
				return c, nil
			}
		}
		return rig.Container{}, fmt.Errorf("no container of pod %s runs", fragile)
	}
	was := got[rig.Container](t)(find(t.Context()))
	pid := got[int](t)(p.site.Runtime.PID(t.Context(), was.ID))
	must(t, syscall.Kill(pid, syscall.SIGKILL))
	took := eventually(t, 30*time.Second, "the node has restarted the container", func(ctx context.Context) error {
		now, err := find(ctx)
		if err == nil && now.ID == was.ID {
			err = errors.New("the killed container still runs")
		}
		return err
	})
	measured(t, "container killed while cut → running again (KubeEdge and stock kubelet ≤ 1.1 s)", took, 2*time.Second)
}

// testNotEvicted waits until the control plane has given the node up, and looks at what
// became of its pods.
func (p *plant) testNotEvicted(t *testing.T, cutAt time.Time) {
	eventually(t, time.Minute, "the Site shows that it is not connected", siteConnected(p.site, false))
	t.Logf("MEASURED cut → Site not connected: %s", time.Since(cutAt).Round(time.Second))
	eventually(t, 2*time.Minute, "the control plane marks the node unreachable", func(ctx context.Context) error {
		n, err := lab.Kube.CoreV1().Nodes().Get(ctx, p.site.Node, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if c := nodeCondition(n, corev1.NodeReady); c == nil || c.Status != corev1.ConditionUnknown {
			return fmt.Errorf("Ready is %+v, want Unknown: nobody hears the node", c)
		}
		for _, taint := range n.Spec.Taints {
			if taint.Key == corev1.TaintNodeUnreachable && taint.Effect == corev1.TaintEffectNoExecute {
				return nil
			}
		}
		return fmt.Errorf("taints are %v", n.Spec.Taints)
	})
	t.Logf("MEASURED cut → node unreachable in the API: %s", time.Since(cutAt).Round(time.Second))
	took := eventually(t, time.Minute, "the pod that allows it is evicted", func(ctx context.Context) error {
		pod, err := p.pod(ctx, mortal)
		if err == nil && pod.DeletionTimestamp == nil {
			err = fmt.Errorf("pod %s is not being deleted", mortal)
		}
		return err
	})
	t.Logf("unreachable → %s evicted: %s", mortal, took.Round(time.Millisecond))
	for _, pod := range got[[]corev1.Pod](t)(podsOf(t.Context(), p.ns, "")) {
		if pod.Name == doomed || pod.Name == mortal {
			continue
		}
		if pod.DeletionTimestamp != nil {
			t.Errorf("pod %s is being deleted", pod.Name)
		}
		// A pod that tolerates without limit is never evicted; there is no need to wait
		// for five minutes to see it.
		if limit := toleration(&pod, corev1.TaintNodeUnreachable); limit != nil {
			t.Errorf("pod %s tolerates unreachable nodes for %d s only", pod.Name, *limit)
		}
	}
}

// toleration is for how many seconds the pod tolerates a NoExecute taint: nil without
// limit, as Kubernetes computes it: the shortest of those that match.
func toleration(pod *corev1.Pod, key string) *int64 {
	var shortest *int64
	matches := false
	for _, tol := range pod.Spec.Tolerations {
		if (tol.Key != key && tol.Key != "") || (tol.Effect != corev1.TaintEffectNoExecute && tol.Effect != "") {
			continue
		}
		matches = true
		if s := tol.TolerationSeconds; s != nil && (shortest == nil || *s < *shortest) {
			shortest = s
		}
	}
	if !matches {
		zero := int64(0)
		return &zero
	}
	return shortest
}
