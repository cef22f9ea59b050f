package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/internal/e2e/rig"
	"github.com/petiole-io/petiole/streams"
)

// TestReadinessGate: a pod with a readiness gate is Ready when a controller of the cloud opens it,
// and not before; its generation is 1 all the time.
func TestReadinessGate(t *testing.T) {
	const gate = "example.com/load-balancer"
	site := lab.Sites[0]
	ns := newNamespace(t, "gates")
	pods := lab.Kube.CoreV1().Pods(ns)
	_, err := pods.Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "gated"},
		Spec: corev1.PodSpec{
			NodeSelector:                  map[string]string{v1alpha1.SiteLabel: site.Name},
			ReadinessGates:                []corev1.PodReadinessGate{{ConditionType: gate}},
			TerminationGracePeriodSeconds: new(int64),
			Containers:                    []corev1.Container{{Name: "main", Image: lab.Image("web")}},
		},
	}, metav1.CreateOptions{})
	must(t, err)
	is := func(containers, pod corev1.ConditionStatus) condition {
		return func(ctx context.Context) error {
			p, err := pods.Get(ctx, "gated", metav1.GetOptions{})
			if err != nil {
				return err
			}
			if p.Generation != 1 {
				return fmt.Errorf("its generation is %d", p.Generation)
			}
			c, r := podCondition(p, corev1.ContainersReady), podCondition(p, corev1.PodReady)
			if c == nil || r == nil || c.Status != containers || r.Status != pod {
				return fmt.Errorf("its conditions are %+v", p.Status.Conditions)
			}
			return nil
		}
	}
	eventually(t, time.Minute, "its container is ready, the pod is not", is(corev1.ConditionTrue, corev1.ConditionFalse))
	for _, status := range []corev1.ConditionStatus{corev1.ConditionTrue, corev1.ConditionFalse, corev1.ConditionTrue} {
		patch := fmt.Appendf(nil, `{"status":{"conditions":[{"type":%q,"status":%q}]}}`, gate, status)
		_, err = pods.Patch(t.Context(), "gated", types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
		must(t, err)
		eventually(t, time.Minute, "the pod follows its gate", is(corev1.ConditionTrue, status))
	}
}

// configOf returns a configuration of a site's leaf, and what starts the leaf with another one. When the
// test ends, the leaf has the former one and the node is Ready.
func configOf(t *testing.T, site *rig.Site, name string) (was []byte, restart func(context.Context, []byte)) {
	t.Helper()
	file := filepath.Join(lab.Dir, "sites", site.Name, name)
	was = got[[]byte](t)(os.ReadFile(file))
	restart = func(ctx context.Context, config []byte) {
		t.Helper()
		must(t, os.WriteFile(file, config, 0o600))
		must(t, lab.Restart(ctx, site.LeafDaemon()))
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		restart(ctx, was)
		if err := rig.Poll(ctx, "the node is Ready again", nodeReady(site.Node)); err != nil {
			t.Error(err)
		}
	})
	return was, restart
}

// TestKubeletThatCannotStart gives a kubelet a configuration that it rejects: the Site, the leaf's
// readiness and its metrics say why. Then it gets what kubeadm writes, which asks for certificates
// that a site does not sign, and its node is Ready.
func TestKubeletThatCannotStart(t *testing.T) {
	site := lab.Sites[1]
	was, restart := configOf(t, site, "kubelet.yaml")
	with := func(change map[string]any) []byte {
		var config map[string]any
		must(t, yaml.Unmarshal(was, &config))
		maps.Copy(config, change)
		return got[[]byte](t)(yaml.Marshal(config))
	}

	restart(t.Context(), with(map[string]any{"maxPods": -1}))
	const reason = "maxPods"
	eventually(t, time.Minute, "the Site says why its kubelet fails", func(ctx context.Context) error {
		s, err := siteObject(ctx, site.Name)
		if err != nil {
			return err
		}
		c := meta.FindStatusCondition(s.Status.Conditions, v1alpha1.ConditionHealthy)
		if c == nil || c.Status != metav1.ConditionFalse || c.Reason != streams.DegradedKubelet || !strings.Contains(c.Message, reason) {
			return fmt.Errorf("its condition is %+v", c)
		}
		return nil
	})
	eventually(t, time.Minute, "an Event says it", func(ctx context.Context) error {
		events, err := lab.Kube.CoreV1().Events(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.kind=Site,involvedObject.name=" + site.Name})
		if err != nil {
			return err
		}
		for _, e := range events.Items {
			if strings.Contains(e.Message, streams.DegradedKubelet) && strings.Contains(e.Message, reason) {
				return nil
			}
		}
		return fmt.Errorf("none of %d Events does", len(events.Items))
	})
	out := got[string](t)(lab.Output(t.Context(), "kubectl", "petiole", "status"))
	if !strings.Contains(out, streams.DegradedKubelet) {
		t.Errorf("kubectl petiole status does not say it:\n%s", out)
	}
	for path, want := range map[string]string{"/readyz": reason, "/metrics": "petiole_leaf_kubelet_failing 1"} {
		if body := leafAnswer(t, site, path); !strings.Contains(body, want) {
			t.Errorf("the leaf's %s has no %q:\n%.2000s", path, want, body)
		}
	}

	restart(t.Context(), with(map[string]any{
		"rotateCertificates": true, "serverTLSBootstrap": true, "staticPodPath": "/etc/kubernetes/manifests",
		"authentication": map[string]any{
			"anonymous": map[string]any{"enabled": false}, "webhook": map[string]any{"enabled": true},
			"x509": map[string]any{"clientCAFile": "/etc/kubernetes/pki/ca.crt"},
		},
		"authorization": map[string]any{"mode": "Webhook"},
	}))
	eventually(t, 2*time.Minute, "the node is Ready with the configuration of kubeadm", func(ctx context.Context) error {
		if err := kubeletSettled(site); err != nil {
			return err
		}
		return nodeReady(site.Node)(ctx)
	})
	eventually(t, time.Minute, "the Site is healthy", func(ctx context.Context) error {
		s, err := siteObject(ctx, site.Name)
		if err != nil {
			return err
		}
		if c := meta.FindStatusCondition(s.Status.Conditions, v1alpha1.ConditionHealthy); c == nil || c.Status != metav1.ConditionTrue {
			return fmt.Errorf("its condition is %+v", c)
		}
		return nil
	})
}

// kubeletSettled returns an error while the kubelet of a site does not run, or has just started. The
// times of a node's conditions cross the link once an hour, but a kubelet that is not ready says so
// within seconds.
func kubeletSettled(site *rig.Site) error {
	const settled = 20 * time.Second
	kubelet, err := site.Kubelet()
	if err != nil {
		return err
	}
	if age := time.Since(kubelet.Started); age < settled {
		return fmt.Errorf("the kubelet has run for %v", age.Round(time.Millisecond))
	}
	return nil
}

// leafAnswer returns what the leaf's metrics listener answers.
func leafAnswer(t *testing.T, site *rig.Site, path string) string {
	t.Helper()
	req := got[*http.Request](t)(http.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1:10443"+path, nil))
	resp := got[*http.Response](t)(site.HTTP().Do(req))
	defer func() { _ = resp.Body.Close() }()
	return string(got[[]byte](t)(io.ReadAll(resp.Body)))
}

// siteObject returns a Site of the API.
func siteObject(ctx context.Context, name string) (*v1alpha1.Site, error) {
	raw, err := lab.Kube.CoreV1().RESTClient().Get().AbsPath("/apis/petiole.dev/v1alpha1/sites", name).DoRaw(ctx)
	if err != nil {
		return nil, err
	}
	var s v1alpha1.Site
	return &s, json.Unmarshal(raw, &s)
}

// deadNodeGoal is from the death of a kubelet, while its site is up, to Ready=False in the API.
const deadNodeGoal = time.Minute

const moverName = "mover"

// mover is a Deployment of one pod, which runs at a site if it can, and otherwise at the other one.
func mover(site *rig.Site) *appsv1.Deployment {
	one, labels := int32(1), map[string]string{"app": moverName}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: moverName},
		Spec: appsv1.DeploymentSpec{
			Replicas: &one, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					NodeSelector: map[string]string{v1alpha1.EdgeRoleLabel: ""}, TerminationGracePeriodSeconds: new(int64),
					Affinity: &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{
						Weight: 100, Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{
							Key: v1alpha1.SiteLabel, Operator: corev1.NodeSelectorOpIn, Values: []string{site.Name},
						}}},
					}}}},
					Containers: []corev1.Container{{Name: "main", Image: lab.Image("web")}},
				},
			},
		},
	}
}

// readyOn returns a condition that holds when a pod of the mover is ready on a node.
func readyOn(ns, node string) condition {
	return func(ctx context.Context) error {
		pods, err := podsOf(ctx, ns, "app="+moverName)
		if err != nil {
			return err
		}
		for _, p := range pods {
			if p.Spec.NodeName == node && ready(&p) == nil {
				return nil
			}
		}
		return fmt.Errorf("none of %d pods is ready on %s", len(pods), node)
	}
}

// TestDeadNode stops a kubelet while its site is up: its node is not Ready, Kubernetes moves a pod
// to the other site, and the old copy ends when the kubelet is back.
func TestDeadNode(t *testing.T) {
	site, other := lab.Sites[0], lab.Sites[1]
	ns := newNamespace(t, "dead-node")
	soon, d := int64(1), mover(site)
	d.Spec.Template.Spec.Tolerations = []corev1.Toleration{{
		Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &soon,
	}}
	_, err := lab.Kube.AppsV1().Deployments(ns).Create(t.Context(), d, metav1.CreateOptions{})
	must(t, err)
	eventually(t, time.Minute, "the pod runs at "+site.Name, readyOn(ns, site.Node))

	kubelet := got[rig.Process](t)(site.Kubelet())
	must(t, syscall.Kill(kubelet.PID, syscall.SIGSTOP))
	stopped := true
	resume := func() {
		if stopped {
			stopped = false
			if err := syscall.Kill(kubelet.PID, syscall.SIGCONT); err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(resume)
	took := eventually(t, 2*time.Minute, "the node is not Ready", func(ctx context.Context) error {
		n, err := lab.Kube.CoreV1().Nodes().Get(ctx, site.Node, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if c := nodeCondition(n, corev1.NodeReady); c == nil || c.Status != corev1.ConditionFalse || c.Reason != "KubeletNotAlive" {
			return fmt.Errorf("its condition is %+v", c)
		}
		return nil
	})
	measured(t, "kubelet stopped → Ready=False", took, deadNodeGoal)
	moved := eventually(t, 2*time.Minute, "the pod runs at "+other.Name, readyOn(ns, other.Node))
	t.Logf("MEASURED Ready=False → another copy is ready at the other site: %s", moved.Round(time.Millisecond))
	old := got[[]rig.Container](t)(site.Runtime.Containers(t.Context(), ns))
	if len(old) == 0 {
		t.Error("the old copy has ended although its kubelet is stopped: nothing is tested")
	}
	resume()
	back := eventually(t, time.Minute, "the old copy has ended", func(ctx context.Context) error {
		all, err := site.Runtime.Containers(ctx, ns)
		if err != nil {
			return err
		}
		for _, c := range all {
			if c.Running {
				return fmt.Errorf("%s runs", c.ID)
			}
		}
		return nil
	})
	t.Logf("MEASURED kubelet back → old copy ended: %s", back.Round(time.Millisecond))
	eventually(t, time.Minute, "the node is Ready again", nodeReady(site.Node))
}
