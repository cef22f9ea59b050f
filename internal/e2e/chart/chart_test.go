package chart

import (
	"archive/tar"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/bridge/accounts"
	"github.com/petiole-io/petiole/internal/bench"
	"github.com/petiole-io/petiole/internal/e2e/rig"
	"github.com/petiole-io/petiole/internal/lab/cluster"
	"github.com/petiole-io/petiole/internal/lab/fabric"
	"github.com/petiole-io/petiole/internal/lab/registry"
)

const (
	namespace = "petiole-system"
	image     = "petiole/bridge"
	// hubService is where pods reach the hub, whose clients the lab has on loopback.
	hubService = "10.96.0.2:4222"
	hubClients = "127.0.0.1:4222"
	// patience bounds each step.
	patience = 3 * time.Minute
)

// world is the lab with a node in the cloud.
type world struct {
	*testing.T
	lab *rig.Rig
	ctx context.Context
}

// TestHelm installs the chart on the lab's API server, upgrades it to one that has a hub, too, and
// uninstalls it. The lab's own bridge does not run meanwhile, its hub does.
func TestHelm(t *testing.T) {
	root, err := rig.FindRoot()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	t.Cleanup(cancel)
	r, err := rig.Open(ctx, root)
	if err != nil {
		t.Fatalf("%v; `go tool task lab` starts the lab", err)
	}
	w := &world{t, r, ctx}
	t.Cleanup(func() { w.must(r.Close()) })
	node, err := bench.StartCloudNode(ctx, r, testWriter{t}, map[string]string{cluster.ServiceIP + ":443": r.APIAddress(), hubService: hubClients})
	w.must(err)
	t.Cleanup(func() { w.must(node.Stop()) })
	program, err := bridgeImage(r.Bin("bridge"))
	w.must(err)
	w.must(registry.Push(ctx, rig.Registry, image+":1", program))
	w.createSecret()
	h := w.prepareHub(node)
	w.stopBridge()

	install := []string{
		"deploy/helm/petiole", "--namespace", namespace, "--wait", "--timeout", "3m", "--set-string", "bridge.image.repository=" + rig.Registry + "/" + image + ",bridge.image.tag=1",
		"--set", "bridge.config.nats.urls={nats://" + hubService + "},bridge.config.nats.caFile=",
		"--set", "bridge.kubeletAPI=false", // the lab's API server knows the authority of the lab's bridge
	}
	// The lab has applied the definitions, roles and policies, by server-side apply as Helm does.
	w.helm(append([]string{"install", "petiole", "--take-ownership", "--force-conflicts"}, install...)...)
	first := w.awaitLeader("")
	w.startsAtPlantA("chart-installed")

	w.helm(append(append([]string{"upgrade", "petiole", "--set-string", "bridge.podAnnotations.step=upgraded"}, install...), h.values()...)...)
	w.awaitLeader(first)
	w.startsAtPlantA("chart-upgraded")
	h.works()

	w.helm("uninstall", "petiole", "--namespace", namespace, "--wait", "--timeout", "3m")
	w.definitionsAndSitesStay()
	w.must(w.run("lab", "up"))
	w.startsAtPlantA("chart-uninstalled")
}

// bridgeImage returns the image that deploy/images/Dockerfile builds for the bridge, without certificate
// authorities: the program, and a user that is not root.
func bridgeImage(program string) (v1.Image, error) {
	binary, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	layer, err := registry.Layer([]registry.File{
		{Name: "etc/", Kind: tar.TypeDir, Mode: 0o755},
		{Name: "tmp/", Kind: tar.TypeDir, Mode: 0o1777},
		{Name: "etc/passwd", Kind: tar.TypeReg, Data: []byte("petiole:x:65532:65532::/var/lib/petiole:/sbin/nologin\n"), Mode: 0o644},
		{Name: "etc/group", Kind: tar.TypeReg, Data: []byte("petiole:x:65532:\n"), Mode: 0o644},
		{Name: "usr/bin/bridge", Kind: tar.TypeReg, Data: binary, Mode: 0o755},
	})
	if err != nil {
		return nil, err
	}
	return registry.Image(v1.Config{User: "65532:65532", Entrypoint: []string{"/usr/bin/bridge"}, Cmd: []string{"--config", "/etc/petiole/bridge.yaml"}}, layer)
}

type testWriter struct{ *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.Log(strings.TrimSuffix(string(p), "\n"))
	return len(p), nil
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) eventually(what string, cond func(ctx context.Context) error) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	w.must(rig.Poll(ctx, what, cond))
}

func (w *world) run(name string, args ...string) error {
	out, err := w.lab.Command(w.ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// helm runs helm. If it fails, what the cluster shows of the bridge is said, too.
func (w *world) helm(args ...string) {
	w.Helper()
	start := time.Now()
	cmd := w.lab.Command(w.ctx, "helm", args...)
	cmd.Env = append(cmd.Env, "HELM_CACHE_HOME="+w.TempDir(), "HELM_CONFIG_HOME="+w.TempDir(), "HELM_DATA_HOME="+w.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		state, describeErr := w.lab.Output(w.ctx, "kubectl", "-n", namespace, "describe", "deployments,replicasets,pods")
		w.Fatalf("helm %s: %v\n%s\n%s%v", strings.Join(args, " "), err, out, state, describeErr)
	}
	w.Logf("helm %s: %v", args[0], time.Since(start).Round(time.Second))
}

// createSecret creates the Secret of the bridge as docs/install.md does.
func (w *world) createSecret() {
	operator := fabric.Operator(filepath.Join(w.lab.Dir, "nats/operator"))
	data := map[string][]byte{}
	for _, name := range []string{accounts.BridgeCreds, accounts.AccountsCreds, accounts.SigningKeyFile, accounts.SiteKeyFile} {
		content, err := os.ReadFile(operator.File(name))
		w.must(err)
		data[name] = content
	}
	secrets := w.lab.Kube.CoreV1().Secrets(namespace)
	_, err := secrets.Create(w.ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "bridge-nats"}, Data: data}, metav1.CreateOptions{})
	w.must(err)
	w.Cleanup(func() { w.must(secrets.Delete(context.WithoutCancel(w.ctx), "bridge-nats", metav1.DeleteOptions{})) })
}

// stopBridge ends the lab's bridge, and starts it again at the end, if the test has failed before.
func (w *world) stopBridge() {
	p, err := w.lab.Daemon(rig.BridgeDaemon)
	w.must(err)
	w.must(syscall.Kill(p.PID, syscall.SIGTERM))
	w.Cleanup(func() {
		out, err := w.lab.Command(context.WithoutCancel(w.ctx), "lab", "up").CombinedOutput()
		if err != nil {
			w.Errorf("start the lab's bridge again: %v\n%s", err, out)
		}
	})
	w.eventually("the end of the lab's bridge", func(context.Context) error {
		if again, err := w.lab.Daemon(rig.BridgeDaemon); err == nil && again.Same(p) {
			return fmt.Errorf("process %d runs", p.PID)
		}
		return nil
	})
}

// awaitLeader returns which pod leads, as soon as it is one of the Deployment's and not former, and all
// pods are ready.
func (w *world) awaitLeader(former string) (leader string) {
	w.Helper()
	w.eventually("a pod that leads", func(ctx context.Context) error {
		lease, err := w.lab.Kube.CoordinationV1().Leases(namespace).Get(ctx, "bridge", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == "" {
			return fmt.Errorf("nobody leads")
		}
		leader = *lease.Spec.HolderIdentity
		d, err := w.lab.Kube.AppsV1().Deployments(namespace).Get(ctx, "bridge", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if d.Status.ReadyReplicas != 2 || d.Status.UpdatedReplicas != 2 || d.Status.ObservedGeneration != d.Generation {
			return fmt.Errorf("the Deployment: %+v", d.Status)
		}
		pods, err := w.lab.Kube.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(d.Spec.Selector)})
		if err != nil {
			return err
		}
		for _, p := range pods.Items {
			if strings.HasPrefix(leader, p.Name+"-") && leader != former && current(d, p) {
				return nil
			}
		}
		return fmt.Errorf("%s leads", leader)
	})
	w.Logf("%s leads", leader)
	return leader
}

// current reports whether a pod has the annotations of the Deployment's template.
func current(d *appsv1.Deployment, p corev1.Pod) bool {
	for key, value := range d.Spec.Template.Annotations {
		if p.Annotations[key] != value {
			return false
		}
	}
	return true
}

// startsAtPlantA creates a pod of plant-a with a ConfigMap: it can only start if its objects arrive there,
// and be Ready in the API if its status comes back.
func (w *world) startsAtPlantA(name string) {
	w.Helper()
	start := time.Now()
	objects := metav1.ObjectMeta{Name: name, Namespace: metav1.NamespaceDefault}
	configMaps, pods := w.lab.Kube.CoreV1().ConfigMaps(objects.Namespace), w.lab.Kube.CoreV1().Pods(objects.Namespace)
	_, err := configMaps.Create(w.ctx, &corev1.ConfigMap{ObjectMeta: objects, Data: map[string]string{"KEY": name}}, metav1.CreateOptions{})
	w.must(err)
	none := false
	_, err = pods.Create(w.ctx, &corev1.Pod{ObjectMeta: objects, Spec: corev1.PodSpec{
		NodeName: w.lab.Sites[0].Node, AutomountServiceAccountToken: &none, TerminationGracePeriodSeconds: new(int64),
		Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
		Containers: []corev1.Container{{
			Name: "c", Image: w.lab.Image("sleeper"),
			EnvFrom: []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}}}},
		}},
	}}, metav1.CreateOptions{})
	w.must(err)
	w.Cleanup(func() {
		ctx := context.WithoutCancel(w.ctx)
		w.must(pods.Delete(ctx, name, metav1.DeleteOptions{}))
		w.must(configMaps.Delete(ctx, name, metav1.DeleteOptions{}))
	})
	w.eventually("pod "+name+" at plant-a", func(ctx context.Context) error {
		p, err := pods.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return fmt.Errorf("it is %s: %+v", p.Status.Phase, p.Status.Conditions)
	})
	w.Logf("pod %s at plant-a is Ready after %v", name, time.Since(start).Round(100*time.Millisecond))
}

// definitionsAndSitesStay checks that uninstalling the chart has deleted the bridge and no Site.
func (w *world) definitionsAndSitesStay() {
	w.Helper()
	if _, err := w.lab.Kube.AppsV1().Deployments(namespace).Get(w.ctx, "bridge", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		w.Fatalf("the Deployment: %v, want it to be gone", err)
	}
	sites, err := w.lab.Output(w.ctx, "kubectl", "get", "sites", "-o", "jsonpath={.items[*].metadata.name}")
	w.must(err)
	if sites != "plant-a plant-b" {
		w.Fatalf("sites %q, want plant-a and plant-b", sites)
	}
	_, err = w.lab.Output(w.ctx, "kubectl", "get", "crd", "sites.petiole.dev", "backlogs.petiole.dev", "devices.devices.kubeedge.io", "devicemodels.devices.kubeedge.io")
	w.must(err)
}
