package bridgetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	apitesting "k8s.io/kubernetes/cmd/kube-apiserver/app/testing"
	"k8s.io/kubernetes/test/utils/ktesting"

	"github.com/petiole-io/petiole/internal/polltest"
)

// patience is how long a test waits for what must happen.
const patience = polltest.Limit

// api is a running API server with the bridge's manifests applied.
type api struct {
	admin   kubernetes.Interface
	dynamic dynamic.Interface
	// kubeconfig is of the ServiceAccount petiole-system/bridge.
	kubeconfig string
	// addr is where the server listens, config how its administrator reaches it.
	addr   string
	config *rest.Config
	// disposable reports whether no other test uses the server.
	disposable bool
}

// apiOptions leaves out the checks of the API server's own metrics: the servers of a
// process share them.
func apiOptions() *apitesting.TestServerInstanceOptions {
	o := apitesting.NewDefaultTestServerOptions()
	o.DisableInvariantChecks = true
	return o
}

// apiFlags are those of every API server here.
var apiFlags = []string{"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction"}

// startAPI runs an API server of the test's own.
func startAPI(t *testing.T) *api {
	t.Helper()
	return launchAPI(t, t, t.TempDir())
}

// launchAPI runs an API server with an etcd that keeps its data below dir, until host
// cleans up.
func launchAPI(t testing.TB, host ktesting.TB, dir string) *api {
	t.Helper()
	e := runEtcd(t, filepath.Join(dir, "etcd"), "")
	host.Cleanup(e.Close)
	s := storagebackend.NewDefaultConfig("/registry", nil)
	s.Transport.ServerList = []string{"http://" + e.Clients[0].Addr().String()}
	server, err := apitesting.StartTestServer(host, apiOptions(), apiFlags, s)
	if err != nil {
		t.Fatal(err)
	}
	host.Cleanup(server.TearDownFn)
	a := &api{}
	if a.admin, err = kubernetes.NewForConfig(server.ClientConfig); err != nil {
		t.Fatal(err)
	}
	if a.dynamic, err = dynamic.NewForConfig(server.ClientConfig); err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(server.ClientConfig.Host)
	if err != nil {
		t.Fatal(err)
	}
	a.addr, a.config = u.Host, server.ClientConfig
	a.install(t, server.ClientConfig, dir)
	return a
}

// install applies the bridge's manifests and makes its kubeconfig, a file in dir.
func (a *api) install(t testing.TB, admin *rest.Config, dir string) {
	t.Helper()
	ctx := context.Background()
	eventually(t, "namespaces of the system", func() bool {
		_, err1 := a.admin.CoreV1().Namespaces().Get(ctx, metav1.NamespaceSystem, metav1.GetOptions{})
		_, err2 := a.admin.CoreV1().Namespaces().Get(ctx, corev1.NamespaceNodeLease, metav1.GetOptions{})
		return err1 == nil && err2 == nil
	})
	crds, err := filepath.Glob("../../deploy/kubernetes/crds/*.yaml")
	if err != nil || len(crds) < 4 {
		t.Fatalf("found the definitions %v, %v; want those of sites, devices, device models and device statuses", crds, err)
	}
	for _, f := range append(crds, "../../deploy/kubernetes/rbac.yaml") {
		a.applyFile(t, f)
	}
	a.kubeconfig = a.accountKubeconfig(t, admin, "bridge", dir)
}

// applyFile creates the objects of a manifest.
func (a *api) applyFile(t testing.TB, path string) {
	t.Helper()
	a.applyFileWith(t, path, metav1.CreateOptions{})
}

func (a *api) applyFileWith(t testing.TB, path string, options metav1.CreateOptions) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(a.admin.Discovery()))
	dec := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
	for {
		var o unstructured.Unstructured
		if err := dec.Decode(&o.Object); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if len(o.Object) == 0 {
			continue
		}
		m, err := mapper.RESTMapping(o.GroupVersionKind().GroupKind(), o.GroupVersionKind().Version)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		var r dynamic.ResourceInterface = a.dynamic.Resource(m.Resource)
		if m.Scope.Name() == meta.RESTScopeNameNamespace {
			r = a.dynamic.Resource(m.Resource).Namespace(o.GetNamespace())
		}
		if _, err := r.Create(context.Background(), &o, options); err != nil {
			t.Fatalf("%s: create %s %s: %v", path, o.GetKind(), o.GetName(), err)
		}
		if o.GetKind() == "CustomResourceDefinition" {
			a.awaitServed(t, &o)
		}
	}
}

// awaitServed waits until objects of a definition can be listed, and so created.
func (a *api) awaitServed(t testing.TB, crd *unstructured.Unstructured) {
	t.Helper()
	var d apiextensionsv1.CustomResourceDefinition
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(crd.Object, &d); err != nil {
		t.Fatalf("definition %s: %v", crd.GetName(), err)
	}
	for _, v := range d.Spec.Versions {
		gvr := schema.GroupVersionResource{Group: d.Spec.Group, Version: v.Name, Resource: d.Spec.Names.Plural}
		eventually(t, gvr.String()+" is served", func() bool {
			_, err := a.dynamic.Resource(gvr).List(context.Background(), metav1.ListOptions{Limit: 1})
			return err == nil
		})
	}
}

// accountKubeconfig writes the kubeconfig of a ServiceAccount in petiole-system to a file in dir.
func (a *api) accountKubeconfig(t testing.TB, admin *rest.Config, account, dir string) string {
	t.Helper()
	hour := int64(3600)
	token, err := a.admin.CoreV1().ServiceAccounts("petiole-system").CreateToken(context.Background(), account,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &hour}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := clientcmdapi.NewConfig()
	cfg.Clusters["c"] = &clientcmdapi.Cluster{
		Server: admin.Host, TLSServerName: admin.ServerName, CertificateAuthorityData: admin.CAData, CertificateAuthority: admin.CAFile,
	}
	cfg.AuthInfos["u"] = &clientcmdapi.AuthInfo{Token: token.Status.Token}
	cfg.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	cfg.CurrentContext = "x"
	path := filepath.Join(dir, "kubeconfig")
	if err := clientcmd.WriteToFile(*cfg, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// through is the bridge's kubeconfig by way of another address.
func (a *api) through(t *testing.T, addr string) string {
	t.Helper()
	cfg, err := clientcmd.LoadFromFile(a.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Clusters["c"].Server = "https://" + addr
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*cfg, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// eventually polls until cond holds, or fails the test.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for start := time.Now(); !cond(); time.Sleep(20 * time.Millisecond) {
		if time.Since(start) > patience {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}
