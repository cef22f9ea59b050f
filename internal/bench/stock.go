package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"github.com/petiole-io/petiole/internal/e2e/rig"
	"github.com/petiole-io/petiole/internal/lab/cgroup"
	"github.com/petiole-io/petiole/internal/lab/crio"
	"github.com/petiole-io/petiole/internal/lab/daemon"
	"github.com/petiole-io/petiole/internal/lab/host"
	"github.com/petiole-io/petiole/internal/lab/network"
	"github.com/petiole-io/petiole/internal/lab/pki"
	"github.com/petiole-io/petiole/internal/lab/render"
)

const (
	stockName   = "stock"
	stockCgroup = "petiole-stock"
	stockPods   = "10.98.9.0/24"
	stopGrace   = 15 * time.Second
)

// stock is the stock node while it runs.
type stock struct {
	rig     *rig.Rig
	out     io.Writer
	dir     string
	site    network.Site
	net     network.Network
	crio    crio.Config
	daemons daemon.Set
	proxy   *proxy
}

// newStock returns the stock node. It starts nothing.
func newStock(r *rig.Rig, out io.Writer) (*stock, error) {
	wrap, err := host.NeedsWrapper()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(r.Dir, "bench")
	s := &stock{
		rig: r, out: out, dir: dir, site: network.Site{Name: stockName, Number: 9},
		net:     network.Network{Device: rig.BridgeDevice, Prefix: netip.MustParsePrefix(rig.BridgePrefix)},
		daemons: daemon.Set{RunDir: filepath.Join(dir, "run"), LogDir: filepath.Join(dir, "log")},
		crio: crio.Config{
			Site: stockName, StateDir: filepath.Join(dir, "crio"), RunDir: "/run/petiole-lab/stock/crio",
			PodSubnet: stockPods, Registry: rig.Registry, Conmon: host.Conmon, Pinns: r.Bin("pinns"),
			Runtime: host.Runc, CNIPlugins: host.CNIPlugins, StorageDriver: "overlay",
			PolicyFile: filepath.Join(r.Root, "deploy/lab/policy.json"),
		},
	}
	if wrap {
		s.crio.Runtime = r.Bin("ociwrap")
	}
	return s, nil
}

// start builds the kubelet, brings the node up and returns it when it is Ready.
func (s *stock) start(ctx context.Context) (*node, error) {
	fmt.Fprintln(s.out, "building the stock kubelet (k8s.io/kubernetes/cmd/kubelet)…")
	if err := s.build(ctx); err != nil {
		return nil, err
	}
	if err := s.net.CreateSite(s.site); err != nil {
		return nil, err
	}
	if err := cgroup.Create(stockCgroup); err != nil {
		return nil, err
	}
	address := s.net.SiteAddress(s.site)
	var err error
	if s.proxy, err = startProxy(net.JoinHostPort(s.net.Address().String(), "0"), s.rig.APIAddress(), address); err != nil {
		return nil, err
	}
	ca, err := pki.NewAuthority(s.rig.ControlPlaneDir(), "kubernetes-ca")
	if err != nil {
		return nil, err
	}
	serving, err := ca.Issue(s.dir, "kubelet-serving", pki.Subject{Name: "system:node:" + s.nodeName(), Groups: []string{"system:nodes"}, Hosts: []string{address.String()}})
	if err != nil {
		return nil, err
	}
	kubeconfig, err := s.prepare(ca)
	if err != nil {
		return nil, err
	}
	crioDaemon := daemon.Daemon{Name: "crio", Path: s.rig.Bin("crio"), Args: s.crio.Args(), NetNS: s.site.Namespace()}
	if _, err := s.daemons.Start(crioDaemon); err != nil {
		return nil, err
	}
	if err := s.await(ctx, "CRI-O of the stock node", s.crio.Probe); err != nil {
		return nil, err
	}
	kubelet := daemon.Daemon{Name: "kubelet", Path: s.kubelet(), NetNS: s.site.Namespace(), Args: []string{
		"--config", filepath.Join(s.dir, "kubelet.yaml"), "--kubeconfig", kubeconfig, "--hostname-override", s.nodeName(),
		"--root-dir", s.kubeletRoot(), "--cert-dir", filepath.Join(s.kubeletRoot(), "pki"), "--node-ip", address.String(),
		// The API server reaches it, as on a node in the cloud.
		"--address", address.String(), "--client-ca-file", ca.CertFile,
		"--tls-cert-file", serving.CertFile, "--tls-private-key-file", serving.KeyFile,
	}}
	if _, err := s.daemons.Start(kubelet); err != nil {
		return nil, err
	}
	if err := s.await(ctx, "the stock node", func(ctx context.Context) error { return nodeReady(ctx, s.rig.Kube, s.nodeName()) }); err != nil {
		return nil, err
	}
	fmt.Fprintln(s.out, "the stock node is Ready")
	client, err := nodeClient(kubeconfig, s.dial)
	if err != nil {
		return nil, err
	}
	return &node{
		name: s.nodeName(), label: "stock kubelet", client: client, linkBytes: s.linkBytes, site: s.site,
		processes: func() (map[string]rig.Process, error) {
			pid, running := s.daemons.PID("kubelet")
			if !running {
				return nil, fmt.Errorf("find the stock kubelet: %w", os.ErrProcessDone)
			}
			p, err := rig.FindProcess(pid)
			return map[string]rig.Process{"kubelet": p}, err
		},
	}, nil
}

// stop removes the node, also after a start that failed half way.
func (s *stock) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	errs := []error{s.daemons.Stop("kubelet", stopGrace), cgroup.Kill(stockCgroup), s.daemons.Stop("crio", stopGrace)}
	if s.proxy != nil {
		errs = append(errs, s.proxy.close())
	}
	if err := s.rig.Kube.CoreV1().Nodes().Delete(ctx, s.nodeName(), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		errs = append(errs, fmt.Errorf("delete node %s: %w", s.nodeName(), err))
	}
	errs = append(errs, s.net.DeleteSite(s.site), s.crio.PowerCut(s.kubeletRoot()), cgroup.Remove(stockCgroup),
		os.RemoveAll(filepath.Dir(s.crio.RunDir)), os.RemoveAll(s.dir))
	return errors.Join(errs...)
}

// nodeName is the node's address: the API server reaches a kubelet by the name of its host, and the lab has
// no DNS.
func (s *stock) nodeName() string { return s.net.SiteAddress(s.site).String() }

func (s *stock) kubelet() string { return s.rig.Bin("kubelet-stock") }

func (s *stock) kubeletRoot() string { return filepath.Join(s.dir, "kubelet") }

// build is fast when the lab was built: the leaf links the same packages.
func (s *stock) build(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w -X k8s.io/component-base/version.gitVersion="+kubernetesVersion,
		"-o", s.kubelet(), "k8s.io/kubernetes/cmd/kubelet")
	cmd.Dir, cmd.Env = s.rig.Root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the stock kubelet: %w: %s", err, out)
	}
	return nil
}

// kubernetesVersion is that of go.mod; a kubelet without one registers as v0.0.0.
const kubernetesVersion = "v1.37.2"

// prepare writes the configuration of CRI-O and kubelet, the same as a site's, and
// returns the kubelet's kubeconfig.
func (s *stock) prepare(ca *pki.Authority) (string, error) {
	templates := filepath.Join(s.rig.Root, "deploy/lab")
	if err := s.crio.Write(templates); err != nil {
		return "", err
	}
	static := filepath.Join(s.dir, "static-pods")
	if err := os.MkdirAll(static, 0o755); err != nil {
		return "", fmt.Errorf("create folder of static pods: %w", err)
	}
	err := render.File(filepath.Join(templates, "kubelet.yaml.tmpl"), filepath.Join(s.dir, "kubelet.yaml"), map[string]string{
		"RunDir": s.crio.RunDir, "CgroupRoot": "/" + stockCgroup, "PodLogsDir": filepath.Join(s.dir, "pod-logs"), "StaticPods": static,
	})
	if err != nil {
		return "", err
	}
	return s.writeKubeconfig(ca)
}

func (s *stock) writeKubeconfig(ca *pki.Authority) (string, error) {
	pair, err := ca.Issue(s.dir, "kubelet", pki.Subject{Name: "system:node:" + s.nodeName(), Groups: []string{"system:nodes"}})
	if err != nil {
		return "", err
	}
	cfg := api.NewConfig()
	cfg.Clusters["lab"] = &api.Cluster{Server: "https://" + s.proxy.address(), TLSServerName: "kubernetes", CertificateAuthority: ca.CertFile}
	cfg.AuthInfos["node"] = &api.AuthInfo{ClientCertificate: pair.CertFile, ClientKey: pair.KeyFile}
	cfg.Contexts["lab"] = &api.Context{Cluster: "lab", AuthInfo: "node"}
	cfg.CurrentContext = "lab"
	path := filepath.Join(s.dir, "kubelet.kubeconfig")
	if err := clientcmd.WriteToFile(*cfg, path); err != nil {
		return "", fmt.Errorf("write kubeconfig of the stock kubelet: %w", err)
	}
	return path, nil
}

func (s *stock) dial(_ context.Context, _, address string) (net.Conn, error) {
	return s.site.Dial(address, 5*time.Second)
}

func (s *stock) linkBytes() (int64, error) {
	return rig.InterfaceBytes(fmt.Sprintf("%s-%d", s.net.Device, s.site.Number))
}

func (s *stock) await(ctx context.Context, what string, cond func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	return rig.Poll(ctx, what, cond)
}
