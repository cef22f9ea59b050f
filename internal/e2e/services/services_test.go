package services

import (
	"archive/tar"
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/internal/e2e/rig"
	"github.com/petiole-io/petiole/internal/lab/host"
	"github.com/petiole-io/petiole/internal/lab/registry"
)

const (
	namespace = "services-e2e"
	// sites is the namespace of kube-proxy and CoreDNS.
	sites = "petiole-sites"
	// limit is for what begins with pulled images and started containers.
	limit = 4 * time.Minute
)

// workload has a web server at each of two sites behind one Service, and at the first site a client
// whose service account may read the ConfigMaps of its namespace.
const workload = `
apiVersion: v1
kind: ServiceAccount
metadata: {name: reader}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader}
rules: [{apiGroups: [""], resources: [configmaps], verbs: [get, list, watch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{kind: ServiceAccount, name: reader, namespace: services-e2e}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080, nodePort: 31080}]
---
apiVersion: v1
kind: Pod
metadata: {name: web-a, labels: {app: web}}
spec:
  nodeName: plant-a-1
  terminationGracePeriodSeconds: 1
  containers:
    - name: web
      image: 10.98.0.1:5000/petiole/web:1
      readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: web-b, labels: {app: web}}
spec:
  nodeName: plant-b-1
  terminationGracePeriodSeconds: 1
  containers: [{name: web, image: "10.98.0.1:5000/petiole/web:1"}]
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  nodeName: plant-a-1
  serviceAccountName: reader
  terminationGracePeriodSeconds: 1
  containers: [{name: client, image: "10.98.0.1:5000/petiole/client:1", command: [sleep, infinity]}]
`

func TestServicesInsideASite(t *testing.T) {
	site := lab.Sites[0]
	apply(t)
	eventually(t, "kube-proxy, CoreDNS and the pods are ready", func(ctx context.Context) error {
		return ready(ctx, site.Node)
	})
	inside := func(when string) {
		t.Helper()
		answers := func(url string) func(context.Context) error {
			row := 0 // of answers: half of the Service's pods are at another site
			return func(ctx context.Context) error {
				out, err := inClient(ctx, site, "kubectl", "get", "--raw", "/", "--request-timeout=10s", "--server="+url)
				if err != nil || strings.TrimSpace(out) != "petiole" {
					row = 0
					return fmt.Errorf("%s answers %q: %w", url, out, err)
				}
				if row++; row < 4 {
					return fmt.Errorf("%s has answered %d times", url, row)
				}
				return nil
			}
		}
		eventually(t, when+": the Service by its name", answers("http://web."+namespace+".svc.cluster.local/"))
		eventually(t, when+": the Service by its short name", answers("http://web/"))
		eventually(t, when+": the NodePort", answers(fmt.Sprintf("http://%s:31080/", nodeAddress(t, site.Node))))
		eventually(t, when+": the API shows what the role allows", func(ctx context.Context) error {
			out, err := inClient(ctx, site, "kubectl", "get", "configmaps", "-o", "name")
			if err == nil && !strings.Contains(out, "configmap/kube-root-ca.crt") {
				err = fmt.Errorf("no ConfigMap among %q", out)
			}
			return err
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if out, err := inClient(ctx, site, "kubectl", "get", "secrets"); err == nil || !strings.Contains(err.Error(), `"system:serviceaccount:`+namespace+`:reader" cannot list resource "secrets"`) {
			t.Errorf("%s: Secrets are %q, %v, want forbidden", when, out, err)
		}
	}
	inside("with the link")
	must(t, lab.Cut(t.Context(), site))
	t.Cleanup(func() { must(t, lab.Heal(context.WithoutCancel(t.Context()), site)) })
	inside("while it is cut")
	before := podIP(t, site, "web-a")
	must(t, lab.Reboot(t.Context(), site))
	eventually(t, "the pod has another address after the reboot", func(ctx context.Context) error {
		out, err := atSite(ctx, site, "get", "pod", "web-a", "-o", `jsonpath={.status.podIP} {.status.conditions[?(@.type=="Ready")].status}`)
		if ip, now, _ := strings.Cut(out, " "); err == nil && (ip == before || now != "True") {
			err = fmt.Errorf("it has %s, had %s", out, before)
		}
		return err
	})
	inside("after a reboot while it is cut")
}

// inClient runs a command in the client's container, by the site's own API.
func inClient(ctx context.Context, site *rig.Site, command ...string) (string, error) {
	return atSite(ctx, site, append([]string{"exec", "client", "--"}, command...)...)
}

// pushClient pushes an image with busybox and kubectl.
func pushClient(t *testing.T) {
	t.Helper()
	files := []registry.File{{Name: "bin/", Kind: tar.TypeDir, Mode: 0o755}, {Name: "tmp/", Kind: tar.TypeDir, Mode: 0o1777}}
	for name, file := range map[string]string{"busybox": host.Busybox, "kubectl": lab.Bin("kubectl")} {
		data, err := os.ReadFile(file)
		must(t, err)
		files = append(files, registry.File{Name: "bin/" + name, Kind: tar.TypeReg, Data: data, Mode: 0o755})
	}
	// kubectl also asks the Services: the resolver of a static busybox needs libraries.
	files = append(files, registry.File{Name: "bin/sleep", Kind: tar.TypeSymlink, Link: "busybox", Mode: 0o777})
	layer, err := registry.Layer(files)
	must(t, err)
	image, err := registry.Image(v1.Config{Env: []string{"PATH=/bin", "HOME=/tmp"}, WorkingDir: "/"}, layer)
	must(t, err)
	must(t, registry.Push(t.Context(), rig.Registry, "petiole/client:1", image))
}

// apply creates the workload; it is deleted after the test.
func apply(t *testing.T) {
	t.Helper()
	pushClient(t)
	_, err := lab.Kube.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	must(t, err)
	t.Cleanup(func() { must(t, deleteNamespace(context.WithoutCancel(t.Context()), namespace)) })
	eventually(t, "the workload is accepted", func(ctx context.Context) error { return kubectlApply(ctx, workload) })
}

// kubectlApply applies objects in the cloud.
func kubectlApply(ctx context.Context, text string) error {
	cmd := lab.Command(ctx, "kubectl", "-n", namespace, "apply", "-f", "-")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// ready returns nil if the pods of a node that the test needs are ready.
func ready(ctx context.Context, node string) error {
	found := 0
	for _, ns := range []string{namespace, sites} {
		pods, err := lab.Kube.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + node})
		if err != nil {
			return err
		}
		for _, p := range pods.Items {
			found++
			ok := false
			for _, c := range p.Status.Conditions {
				ok = ok || c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
			}
			if !ok {
				return fmt.Errorf("pod %s/%s is not ready: %+v", ns, p.Name, p.Status.ContainerStatuses)
			}
		}
	}
	if found != 4 {
		return fmt.Errorf("%d pods at %s, want 4", found, node)
	}
	return nil
}

func nodeAddress(t *testing.T, name string) string {
	t.Helper()
	node, err := lab.Kube.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
	must(t, err)
	for _, a := range node.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			return a.Address
		}
	}
	t.Fatalf("node %s has no address", name)
	return ""
}

// atSite runs kubectl against the site's own API.
func atSite(ctx context.Context, site *rig.Site, args ...string) (string, error) {
	return lab.Output(ctx, "lab", append([]string{"exec", site.Name, lab.Bin("kubectl"), "--kubeconfig", lab.NodeKubeconfig(site), "-n", namespace}, args...)...)
}

func podIP(t *testing.T, site *rig.Site, name string) string {
	t.Helper()
	out, err := atSite(t.Context(), site, "get", "pod", name, "-o", "jsonpath={.status.podIP}")
	must(t, err)
	return out
}

func eventually(t *testing.T, what string, cond func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	begun := time.Now()
	if err := rig.Poll(ctx, what, cond); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: after %s", what, time.Since(begun).Round(100*time.Millisecond))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
