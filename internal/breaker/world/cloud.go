package world

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/yaml"

	"github.com/petiole-io/petiole/bridge/accounts"
	"github.com/petiole-io/petiole/internal/lab/cluster"
	"github.com/petiole-io/petiole/internal/lab/daemon"
	"github.com/petiole-io/petiole/internal/lab/fabric"
	"github.com/petiole-io/petiole/internal/lab/pki"
	"github.com/petiole-io/petiole/internal/lab/render"
	"github.com/petiole-io/petiole/streams"
)

// ControlPlane is etcd, kube-apiserver, scheduler and controller-manager in one process.
type ControlPlane struct {
	*Process
	world *World
	dir   string
}

// AwaitReady blocks until the API server answers and the controllers work.
func (c *ControlPlane) AwaitReady(ctx context.Context) error {
	return await(ctx, "the control plane", func(ctx context.Context) error {
		if c.Crashed() {
			return fmt.Errorf("the control plane ended, see %s", c.Log())
		}
		return cluster.AwaitReady(ctx, c.world.REST)
	})
}

// Snapshot copies etcd's data of one moment to a folder: the process is paused
// meanwhile.
func (c *ControlPlane) Snapshot(to string) error {
	if err := os.RemoveAll(to); err != nil {
		return fmt.Errorf("copy etcd: %w", err)
	}
	if err := c.Pause(); err != nil {
		return err
	}
	err := command("cp", "-r", filepath.Join(c.dir, "etcd"), to)
	if rerr := c.Resume(); err == nil {
		err = rerr
	}
	return err
}

// Restore replaces etcd's data with a snapshot. The control plane must not run.
func (c *ControlPlane) Restore(from string) error {
	etcd := filepath.Join(c.dir, "etcd")
	if err := os.RemoveAll(etcd); err != nil {
		return fmt.Errorf("restore etcd: %w", err)
	}
	return command("cp", "-r", from, etcd)
}

// Compact deletes all versions but the present ones from etcd, so that nobody can continue
// a watch from an older one. It returns the present revision.
func (c *ControlPlane) Compact(ctx context.Context) (int64, error) {
	var now struct {
		Header struct {
			Revision int64 `json:"revision,string"`
		} `json:"header"`
	}
	// etcd's JSON gateway: keys are base64.
	if err := etcdCall(ctx, "/v3/kv/range", map[string]any{"key": "AA=="}, &now); err != nil {
		return 0, err
	}
	var done map[string]any
	return now.Header.Revision, etcdCall(ctx, "/v3/kv/compaction", map[string]any{"revision": now.Header.Revision}, &done)
}

func etcdCall(ctx context.Context, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d%s", etcdPort, path), bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("call etcd: %w", err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("call etcd %s: %w", path, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("call etcd %s: %s: %s", path, resp.Status, data)
	}
	return json.Unmarshal(data, out)
}

// Bridge is one bridge process with its proxy.
type Bridge struct {
	*Process
	Proxy *Proxy
	// ID is its identity in the leader election.
	ID    string
	open  func() error
	close func() error
}

func (w *World) prepareCloud() error {
	dir := filepath.Join(w.opts.Dir, "controlplane")
	creds, err := cluster.NewCredentials(dir, apiPort)
	if err != nil {
		return fmt.Errorf("create credentials: %w", err)
	}
	if w.kubeCA, err = pki.NewAuthority(dir, "kubernetes-ca"); err != nil {
		return err
	}
	if w.REST, err = cluster.Config(creds.Admin); err != nil {
		return err
	}
	if w.Kube, err = kubernetes.NewForConfig(w.REST); err != nil {
		return fmt.Errorf("create client: %w", err)
	}
	if w.Dynamic, err = dynamic.NewForConfig(w.REST); err != nil {
		return fmt.Errorf("create client: %w", err)
	}
	w.ControlPlane = &ControlPlane{world: w, dir: dir, Process: newProcess(w.set, daemon.Daemon{
		Name: "controlplane", Path: filepath.Join(w.bin, "lab"), Dir: w.opts.Root, Args: []string{
			"controlplane", "--dir", dir, "--api-port", fmt.Sprint(apiPort), "--etcd-port", fmt.Sprint(etcdPort),
			"--etcd-peer-port", fmt.Sprint(etcdPeerPort), "--advertise", w.net.Address().String(),
		},
	}, local(apiPort), local(etcdPort), local(etcdPeerPort))}
	w.images = newProcess(w.set, daemon.Daemon{
		Name: "registry", Path: filepath.Join(w.bin, "lab"), Dir: w.opts.Root, Args: []string{"registry", "--listen", w.registry()},
	}, w.registry())
	if err := w.prepareHub(); err != nil {
		return err
	}
	w.Bridges = nil
	for i, id := range []string{"a", "b"} {
		b, err := w.newBridge(i, id)
		if err != nil {
			return err
		}
		w.Bridges = append(w.Bridges, b)
	}
	return nil
}

func (w *World) prepareHub() error {
	dir := filepath.Join(w.opts.Dir, "nats")
	var err error
	if w.natsCA, err = pki.NewAuthority(dir, "nats-ca"); err != nil {
		return err
	}
	cert, err := w.natsCA.Issue(dir, "hub", pki.Subject{Name: "hub", Hosts: []string{w.net.Address().String(), "127.0.0.1"}})
	if err != nil {
		return err
	}
	if err := w.operator().Create(filepath.Join(dir, "accounts")); err != nil {
		return err
	}
	hub := fabric.Hub{
		Operator:     filepath.Join("operator", accounts.OperatorConf),
		MaxFileStore: strconv.FormatInt(2*w.hubBytes(), 10), MaxBatches: fabric.Batches(w.maxSites()),
		Listen: hubClients, Monitor: hubMonitor, LeafListen: w.hubLeaves(),
		Store: filepath.Join(dir, "hub"), CertFile: cert.CertFile, KeyFile: cert.KeyFile,
	}
	conf := filepath.Join(dir, "hub.conf")
	w.Hub = newProcess(w.set, daemon.Daemon{Name: "hub", Path: filepath.Join(w.bin, "nats-server"), Args: []string{"-c", conf}}, hubClients, hubMonitor, w.hubLeaves())
	return fabric.RepoTemplates(w.opts.Root).WriteHub(conf, hub)
}

func local(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

func (w *World) hubLeaves() string { return fmt.Sprintf("%s:%d", w.net.Address(), hubLeafPort) }

// newBridge writes the configuration of one bridge: it reaches the API server through
// its proxy only.
func (w *World) newBridge(i int, id string) (*Bridge, error) {
	dir := filepath.Join(w.opts.Dir, "controlplane")
	address := local(gatePort + i)
	serving, err := w.kubeCA.Issue(dir, "proxy", pki.Subject{Name: "proxy", Hosts: []string{"127.0.0.1"}})
	if err != nil {
		return nil, err
	}
	cfg := api.NewConfig()
	cfg.Clusters["proxy"] = &api.Cluster{Server: "https://" + address, CertificateAuthority: w.kubeCA.CertFile}
	cfg.AuthInfos["bridge"] = &api.AuthInfo{}
	cfg.Contexts["proxy"] = &api.Context{Cluster: "proxy", AuthInfo: "bridge"}
	cfg.CurrentContext = "proxy"
	kubeconfig := filepath.Join(w.opts.Dir, "bridge-"+id+".kubeconfig")
	if err := clientcmd.WriteToFile(*cfg, kubeconfig); err != nil {
		return nil, fmt.Errorf("write kubeconfig of bridge %s: %w", id, err)
	}
	conf := filepath.Join(w.opts.Dir, "bridge-"+id+".yaml")
	if err := w.writeBridgeConfig(conf, kubeconfig, id, metricsPort+i); err != nil {
		return nil, err
	}
	b := &Bridge{ID: id, close: func() error { return nil }, Process: newProcess(w.set, daemon.Daemon{
		Name: "bridge-" + id, Path: w.opts.Bridge, Args: []string{"--config", conf},
	}, local(metricsPort+i))}
	b.open = func() error {
		client := pki.Pair{CertFile: filepath.Join(dir, "bridge.crt"), KeyFile: filepath.Join(dir, "bridge.key")}
		g, err := startProxy(id, address, fmt.Sprintf("https://127.0.0.1:%d", apiPort), w.kubeCA, serving, client, &w.race, w.opts.OnWrite)
		if err != nil {
			return err
		}
		b.Proxy, b.close = g, g.close
		return nil
	}
	return b, nil
}

// maxSites is the number of sites that have room at the hub.
func (w *World) maxSites() int { return max(100, len(w.siteNames())) }

// hubBytes is the room for the streams of all sites.
func (w *World) hubBytes() int64 { return int64(w.maxSites()) * streams.MinSiteBytes }

// writeBridgeConfig sets the fields that have no default, and those that two bridges on one
// machine cannot share.
func (w *World) writeBridgeConfig(path, kubeconfig, id string, metrics int) error {
	data, err := yaml.Marshal(map[string]any{
		"kubernetes": map[string]any{"kubeconfig": kubeconfig},
		"nats": map[string]any{
			"urls": []string{"nats://" + hubClients}, "credentialsFile": w.operator().File(accounts.BridgeCreds),
			"accounts": map[string]any{
				"credentialsFile": w.operator().File(accounts.AccountsCreds),
				"operatorKeyFile": w.operator().File(accounts.SigningKeyFile), "siteKeyFile": w.operator().File(accounts.SiteKeyFile),
			},
		},
		"leaderElection": map[string]any{"identity": id},
		"metrics":        map[string]any{"listen": local(metrics)},
		"limits":         map[string]any{"maxSites": w.maxSites(), "hubBytes": w.hubBytes()},
	})
	if err != nil {
		return fmt.Errorf("encode configuration: %w", err)
	}
	return render.Secret(path, data)
}
