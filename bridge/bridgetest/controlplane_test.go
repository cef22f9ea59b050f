package bridgetest

import (
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	apitesting "k8s.io/kubernetes/cmd/kube-apiserver/app/testing"
)

// controlPlane is an API server with an etcd of its own that a test can stop, restore
// from a copy, and start again. Clients reach it through a front that stays.
type controlPlane struct {
	*api
	t      *testing.T
	dir    string
	addr   string
	front  *front
	etcd   *embed.Etcd
	server *apitesting.TestServer
}

// startControlPlane runs one that has the bridge's manifests.
func startControlPlane(t *testing.T) *controlPlane {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	c := &controlPlane{api: &api{disposable: true}, t: t, dir: filepath.Join(t.TempDir(), "etcd"), addr: addr}
	t.Cleanup(func() { c.stop() })
	c.start()
	c.front = newFront(t, c.server.ClientConfig)
	c.install(t, c.server.ClientConfig, t.TempDir())
	c.kubeconfig = c.front.kubeconfig(c.api)
	return c
}

// start runs etcd and the API server, which must be stopped, on what is in dir.
func (c *controlPlane) start() {
	c.t.Helper()
	c.etcd = runEtcd(c.t, c.dir, c.addr)
	s := storagebackend.NewDefaultConfig("/registry", nil)
	s.Transport.ServerList = []string{"http://" + c.addr}
	server, err := apitesting.StartTestServer(c.t, apiOptions(), apiFlags, s)
	if err != nil {
		c.t.Fatal(err)
	}
	c.server = &server
	if c.admin, err = kubernetes.NewForConfig(server.ClientConfig); err != nil {
		c.t.Fatal(err)
	}
	if c.dynamic, err = dynamic.NewForConfig(server.ClientConfig); err != nil {
		c.t.Fatal(err)
	}
	if c.front != nil {
		c.front.point(server.ClientConfig)
		c.front.inject(nil)
	}
}

// stop ends both; watches end with it.
func (c *controlPlane) stop() {
	if c.front != nil {
		c.front.inject(hangUp)
		c.front.drop()
	}
	if c.server != nil {
		c.server.TearDownFn()
		c.server = nil
	}
	if c.etcd != nil {
		c.etcd.Close()
		c.etcd = nil
	}
}

// snapshot copies etcd's data; it must be stopped.
func (c *controlPlane) snapshot() string {
	c.t.Helper()
	to := filepath.Join(c.t.TempDir(), "snapshot")
	if err := os.CopyFS(to, os.DirFS(c.dir)); err != nil {
		c.t.Fatal(err)
	}
	return to
}

// restore replaces etcd's data by a snapshot; it must be stopped.
func (c *controlPlane) restore(snapshot string) {
	c.t.Helper()
	if err := os.RemoveAll(c.dir); err != nil {
		c.t.Fatal(err)
	}
	if err := os.CopyFS(c.dir, os.DirFS(snapshot)); err != nil {
		c.t.Fatal(err)
	}
}

// runEtcd runs a single member that keeps its data in dir, at addr or, when that is
// empty, at any free port.
func runEtcd(t testing.TB, dir, addr string) *embed.Etcd {
	t.Helper()
	cfg := embed.NewConfig()
	cfg.Dir, cfg.LogLevel, cfg.UnsafeNoFsync = dir, "fatal", true
	free := url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	client := free
	if addr != "" {
		client.Host = addr
	}
	cfg.ListenClientUrls, cfg.ListenPeerUrls = []url.URL{client}, []url.URL{free}
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-e.Server.ReadyNotify():
	case <-time.After(time.Minute):
		e.Close()
		t.Fatal("etcd is not ready after a minute")
	}
	return e
}
