package e2e

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"github.com/petiole-io/petiole/internal/lab/pki"
	"github.com/petiole-io/petiole/internal/porttest"
)

// metricsResolution is the interval of a metrics-server's scrapes, the shortest that it takes.
const metricsResolution = "10s"

// startMetricsServer runs a metrics-server in the cloud until the test ends, with the rights of its own
// manifests. It verifies the certificate of the kubelet API, and the API server verifies its own. It
// returns the file of its log.
func startMetricsServer(t *testing.T, ns string) (log string) {
	t.Helper()
	binary := filepath.Join(lab.Root, ".lab/bin/metrics-server")
	if _, err := os.Stat(binary); err != nil {
		t.Fatalf("%v: `go tool task build PROGRAMS=metrics-server` builds it", err)
	}
	dir := t.TempDir()
	authority := got[*pki.Authority](t)(pki.NewAuthority(dir, "metrics-server-ca"))
	cert := got[pki.Pair](t)(authority.Issue(dir, "metrics-server", pki.Subject{Name: "metrics-server", Hosts: []string{"metrics-server." + ns + ".svc"}}))
	ca := got[[]byte](t)(os.ReadFile(authority.CertFile))
	port := porttest.Port(t)
	manifests := metricsServerManifests(ns, port, ca)
	apply := func(ctx context.Context, verb string, args ...string) error {
		_, errs, err := kubectl(ctx, strings.NewReader(manifests), append([]string{verb, "-f", "-"}, args...)...)
		if err != nil {
			return fmt.Errorf("kubectl %s: %w: %s", verb, err, errs)
		}
		return nil
	}
	must(t, apply(t.Context(), "apply"))
	t.Cleanup(func() { must(t, apply(context.Background(), "delete", "--ignore-not-found")) })

	token := got[*authenticationv1.TokenRequest](t)(lab.Kube.CoreV1().ServiceAccounts(ns).CreateToken(t.Context(), "metrics-server", &authenticationv1.TokenRequest{}, metav1.CreateOptions{}))
	config := api.NewConfig()
	config.Clusters["lab"] = &api.Cluster{Server: lab.REST.Host, CertificateAuthorityData: lab.REST.CAData}
	config.AuthInfos["metrics-server"] = &api.AuthInfo{Token: token.Status.Token}
	config.Contexts["lab"] = &api.Context{Cluster: "lab", AuthInfo: "metrics-server"}
	config.CurrentContext = "lab"
	kubeconfig := filepath.Join(dir, "kubeconfig")
	must(t, clientcmd.WriteToFile(*config, kubeconfig))

	log = filepath.Join(dir, "metrics-server.log")
	out := got[*os.File](t)(os.Create(log))
	defer out.Close()
	cmd := lab.Command(context.Background(), binary,
		"--kubeconfig="+kubeconfig, "--authentication-kubeconfig="+kubeconfig, "--authorization-kubeconfig="+kubeconfig,
		"--bind-address=127.0.0.1", "--secure-port="+strconv.Itoa(port), "--tls-cert-file="+cert.CertFile, "--tls-private-key-file="+cert.KeyFile,
		"--kubelet-certificate-authority="+filepath.Join(lab.ControlPlaneDir(), "kubernetes-ca.crt"),
		"--kubelet-preferred-address-types=Hostname,InternalIP", "--kubelet-use-node-status-port",
		"--metric-resolution="+metricsResolution, "--kubelet-request-timeout=5s")
	cmd.Stdout, cmd.Stderr = out, out
	must(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended by itself, which is an error below
		var exit *exec.ExitError
		if err := <-ended; !errors.As(err, &exit) || exit.Exited() {
			t.Errorf("the metrics-server ended by itself: %v", err)
		}
		if t.Failed() {
			text, err := os.ReadFile(log)
			t.Logf("the end of the metrics-server's log (%v):\n%s", err, text[max(0, len(text)-5000):])
		}
	})
	return log
}

// metricsServerManifests are those of metrics-server v0.9.0 (manifests/base) without the Deployment,
// with verified TLS, and with a Service that leads to a port of this machine.
func metricsServerManifests(ns string, port int, ca []byte) string {
	return strings.NewReplacer("{NS}", ns, "{PORT}", strconv.Itoa(port), "{CA}", base64.StdEncoding.EncodeToString(ca)).Replace(`
apiVersion: v1
kind: ServiceAccount
metadata: {name: metrics-server, namespace: "{NS}"}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: "{NS}-auth-reader", namespace: kube-system}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: extension-apiserver-authentication-reader}
subjects: [{kind: ServiceAccount, name: metrics-server, namespace: "{NS}"}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: "{NS}-auth-delegator"}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:auth-delegator"}
subjects: [{kind: ServiceAccount, name: metrics-server, namespace: "{NS}"}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: "{NS}-metrics-server"}
rules:
- {apiGroups: [""], resources: [nodes/metrics], verbs: [get]}
- {apiGroups: [""], resources: [pods, nodes], verbs: [get, list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: "{NS}-metrics-server"}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "{NS}-metrics-server"}
subjects: [{kind: ServiceAccount, name: metrics-server, namespace: "{NS}"}]
---
apiVersion: v1
kind: Service
metadata: {name: metrics-server, namespace: "{NS}"}
spec: {type: ExternalName, externalName: localhost}
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1beta1.metrics.k8s.io}
spec:
  service: {name: metrics-server, namespace: "{NS}", port: {PORT}}
  group: metrics.k8s.io
  version: v1beta1
  caBundle: {CA}
  groupPriorityMinimum: 100
  versionPriority: 100
`)
}
