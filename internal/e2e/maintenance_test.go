package e2e

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/internal/e2e/rig"
)

// TestNodeMaintenance is what an administrator does with a node, with the link and without: top by a
// real metrics-server, cordon, drain against a PodDisruptionBudget, uncordon.
func TestNodeMaintenance(t *testing.T) {
	site, other := lab.Sites[0], lab.Sites[1]
	ns := newNamespace(t, "maintenance")
	m := &maintenance{ns: ns, metricsLog: startMetricsServer(t, ns), cache: t.TempDir()}
	t.Cleanup(func() {
		for _, s := range lab.Sites {
			if _, errs, err := kubectl(context.Background(), nil, "uncordon", s.Node); err != nil {
				t.Errorf("uncordon %s: %v: %s", s.Node, err, errs)
			}
		}
	})
	m.kubectl(t, "cordon", other.Node)
	m.deploy(t)
	eventually(t, time.Minute, "both pods run at "+site.Name, m.readyAt(site))
	m.kubectl(t, "uncordon", other.Node)

	t.Run("drain keeps to a PodDisruptionBudget", func(t *testing.T) {
		m.budget(t, 2)
		out, errs, err := m.drain(t.Context(), site, 2*time.Second)
		if err == nil || !strings.Contains(errs, "violate the pod's disruption budget") {
			t.Errorf("drain: %v\n%s%s", err, out, errs)
		}
		must(t, m.readyAt(site)(t.Context()))
		m.budget(t, 1)
		start := time.Now()
		if out, errs, err := m.drain(t.Context(), site, time.Minute); err != nil {
			t.Fatalf("drain: %v\n%s%s", err, out, errs)
		}
		t.Logf("MEASURED kubectl drain of 2 pods with minAvailable 1: %s", time.Since(start).Round(time.Millisecond))
		eventually(t, time.Minute, "both pods run at "+other.Name, m.readyAt(other))
		eventually(t, time.Minute, "nothing of them runs at "+site.Name, noSandboxes(site, ns))
		eventually(t, time.Minute, "the gateway sees that its node is cordoned", func(ctx context.Context) error {
			out, err := lab.Command(ctx, lab.Bin("lab"), "exec", site.Name, lab.Bin("kubectl"), "--kubeconfig", lab.NodeKubeconfig(site),
				"get", "node", site.Node, "-o", "jsonpath={.spec.unschedulable}").CombinedOutput()
			if err != nil || string(out) != "true" {
				return fmt.Errorf("unschedulable is %q: %w", out, err)
			}
			return nil
		})
		m.kubectl(t, "uncordon", site.Node)
		if out, errs, err := m.drain(t.Context(), other, time.Minute); err != nil {
			t.Fatalf("drain: %v\n%s%s", err, out, errs)
		}
		m.kubectl(t, "uncordon", other.Node)
		eventually(t, time.Minute, "both pods run at "+site.Name+" again", m.readyAt(site))
	})
	t.Run("top", func(t *testing.T) {
		eventually(t, time.Minute, "top has numbers of both nodes and of the pods", func(ctx context.Context) error {
			for _, s := range lab.Sites {
				if err := m.top(ctx, s, nodeNumbers); err != nil {
					return err
				}
			}
			return m.topPods(ctx, 2)
		})
	})
	t.Run("a site that is away", func(t *testing.T) { m.testAway(t, site, other) })
}

// maintenance is a Deployment that an administrator moves about.
type maintenance struct {
	ns         string
	metricsLog string
	cache      string // kubectl's: it remembers for hours which APIs there are
}

const movable = "movable"

func (m *maintenance) kubectl(t *testing.T, args ...string) {
	t.Helper()
	if out, errs, err := kubectl(t.Context(), nil, args...); err != nil {
		t.Fatalf("kubectl %v: %v\n%s%s", args, err, out, errs)
	}
}

// deploy creates two pods that can run at any site.
func (m *maintenance) deploy(t *testing.T) {
	t.Helper()
	// A pod without a grace period is gone from the API at once, wherever it runs.
	two, grace, labels := int32(2), int64(1), map[string]string{"app": movable}
	_, err := lab.Kube.AppsV1().Deployments(m.ns).Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: movable},
		Spec: appsv1.DeploymentSpec{
			Replicas: &two, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					NodeSelector: map[string]string{v1alpha1.EdgeRoleLabel: ""}, TerminationGracePeriodSeconds: &grace,
					Containers: []corev1.Container{{
						Name: "main", Image: lab.Image("web"),
						// Less than a megabyte is shown as none.
						Command: []string{"/bin/sh", "-c", "dd if=/dev/zero of=/dev/shm/used bs=1048576 count=8 && exec httpd -f -p " + webPort + " -h /www"},
					}},
				},
			},
		},
	}, metav1.CreateOptions{})
	must(t, err)
}

// budget lets so many of the pods be evicted that some remain available.
func (m *maintenance) budget(t *testing.T, available int32) {
	t.Helper()
	client, want := lab.Kube.PolicyV1().PodDisruptionBudgets(m.ns), intstr.FromInt32(available)
	b := &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: movable},
		Spec:       policyv1.PodDisruptionBudgetSpec{MinAvailable: &want, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": movable}}},
	}
	_, err := client.Create(t.Context(), b, metav1.CreateOptions{})
	if err != nil {
		_, err = client.Patch(t.Context(), movable, types.MergePatchType, fmt.Appendf(nil, `{"spec":{"minAvailable":%d}}`, available), metav1.PatchOptions{})
	}
	must(t, err)
	eventually(t, time.Minute, "the budget is counted", func(ctx context.Context) error {
		b, err := client.Get(ctx, movable, metav1.GetOptions{})
		if err == nil && (b.Status.ObservedGeneration != b.Generation || b.Status.CurrentHealthy != 2 || b.Status.DesiredHealthy != available) {
			err = fmt.Errorf("its status is %+v", b.Status)
		}
		return err
	})
}

// drain drains a node of the pods of this test.
func (m *maintenance) drain(ctx context.Context, s *rig.Site, timeout time.Duration) (out, errs string, err error) {
	return kubectl(ctx, nil, "drain", s.Node, "--ignore-daemonsets", "--pod-selector=app="+movable, "--timeout="+timeout.String())
}

// readyAt returns a condition that holds when two pods are ready at a site.
func (m *maintenance) readyAt(s *rig.Site) condition {
	return func(ctx context.Context) error {
		pods, err := podsOf(ctx, m.ns, "app="+movable)
		if err != nil {
			return err
		}
		n := 0
		for i := range pods {
			if pods[i].Spec.NodeName == s.Node && ready(&pods[i]) == nil {
				n++
			}
		}
		if n != 2 {
			return fmt.Errorf("of %d pods %d are ready on %s", len(pods), n, s.Node)
		}
		return nil
	}
}

func noSandboxes(s *rig.Site, ns string) condition {
	return func(ctx context.Context) error {
		left, err := s.Runtime.Sandboxes(ctx, ns)
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("pods %v", left)
		}
		return err
	}
}

// What `kubectl top node` shows of a node that was scraped, and of one that was not.
const (
	nodeNumbers = `\d+m\s+\d+%\s+\d+Mi\s+\d+%`
	nodeUnknown = `<unknown>\s+<unknown>\s+<unknown>\s+<unknown>`
)

// top returns nil when `kubectl top node` shows a site's node in this way.
func (m *maintenance) top(ctx context.Context, s *rig.Site, want string) error {
	out, errs, err := kubectl(ctx, nil, "--cache-dir="+m.cache, "top", "node", "--no-headers")
	if err != nil {
		return fmt.Errorf("kubectl top node: %w: %s", err, errs)
	}
	if !regexp.MustCompile(`(?m)^` + s.Node + `\s+` + want + `\s*$`).MatchString(out) {
		return fmt.Errorf("kubectl top node: no %s %s in\n%s", s.Node, want, out)
	}
	return nil
}

func (m *maintenance) topPods(ctx context.Context, want int) error {
	out, errs, err := kubectl(ctx, nil, "--cache-dir="+m.cache, "-n", m.ns, "top", "pod", "--no-headers")
	if err != nil {
		return fmt.Errorf("kubectl top pod: %w: %s", err, errs)
	}
	if found := regexp.MustCompile(`(?m)^`+movable+`-\S+\s+\d+m\s+[1-9]\d*Mi\s*$`).FindAllString(out, -1); len(found) != want {
		return fmt.Errorf("kubectl top pod: %d pods with numbers, want %d, in\n%s", len(found), want, out)
	}
	return nil
}

// testAway drains a node whose site is away: the pods are replaced elsewhere, their old copies run on
// until the site is back, and only its own metrics are missing meanwhile.
func (m *maintenance) testAway(t *testing.T, site, other *rig.Site) {
	p := &plant{site: site, ns: m.ns}
	before := got[map[string]string](t)(p.running(t.Context()))
	p.cut(t)
	type result struct {
		out, errs string
		err       error
	}
	drained := make(chan result, 1)
	go func() {
		out, errs, err := m.drain(t.Context(), site, 5*time.Minute)
		drained <- result{out, errs, err}
	}()
	eventually(t, 2*time.Minute, "both pods are replaced at "+other.Name, m.readyAt(other))
	p.stillRunning(t, before)
	eventually(t, time.Minute, "top has no numbers of "+site.Node+" alone", func(ctx context.Context) error {
		if err := m.top(ctx, site, nodeUnknown); err != nil {
			return err
		}
		return m.top(ctx, other, nodeNumbers)
	})
	log := string(got[[]byte](t)(os.ReadFile(m.metricsLog)))
	if !lineWith(log, "Failed to scrape node", site.Node) {
		t.Error("the metrics-server does not name the node that it cannot scrape")
	}
	if lineWith(log, "Failed to scrape node", other.Node) {
		t.Errorf("the metrics-server cannot scrape %s, whose site is connected", other.Node)
	}

	select {
	case r := <-drained:
		t.Fatalf("the drain ended while the old copies run: %v\n%s%s", r.err, r.out, r.errs)
	default:
	}
	start := time.Now()
	must(t, lab.Heal(t.Context(), site))
	r := <-drained
	t.Logf("MEASURED heal → kubectl drain ends: %s\n%s%s", time.Since(start).Round(time.Millisecond), r.out, r.errs)
	if r.err != nil {
		t.Errorf("the drain ended with %v", r.err)
	}
	eventually(t, time.Minute, "nothing of them runs at "+site.Name, noSandboxes(site, m.ns))
	must(t, m.readyAt(other)(t.Context()))
	eventually(t, time.Minute, "top has numbers of "+site.Node+" again", func(ctx context.Context) error { return m.top(ctx, site, nodeNumbers) })
}
