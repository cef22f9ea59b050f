package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"k8s.io/client-go/dynamic"

	"github.com/petiole-io/petiole/bridge/accounts"
	"github.com/petiole-io/petiole/internal/lab/cgroup"
	"github.com/petiole-io/petiole/internal/lab/cluster"
	"github.com/petiole-io/petiole/internal/lab/fabric"
	"github.com/petiole-io/petiole/internal/lab/pki"
	"github.com/petiole-io/petiole/internal/lab/render"
	"github.com/petiole-io/petiole/leaf/credential"
)

// ControlPlaneDir returns the folder of the control plane's credentials and data.
func (l *Lab) ControlPlaneDir() string { return filepath.Join(l.dir, "controlplane") }

func (l *Lab) hubConf() string { return filepath.Join(l.dir, "nats/hub.conf") }

func (l *Lab) bridgeConf() string { return filepath.Join(l.dir, "bridge.yaml") }

// prepare writes every configuration file. Keys and certificates that exist are kept.
func (l *Lab) prepare() error {
	creds, err := cluster.NewCredentials(l.ControlPlaneDir(), APIPort)
	if err != nil {
		return fmt.Errorf("create credentials: %w", err)
	}
	kubeconfig, err := os.ReadFile(creds.Admin)
	if err != nil {
		return fmt.Errorf("read kubeconfig: %w", err)
	}
	if err := render.Secret(l.Kubeconfig(), kubeconfig); err != nil {
		return fmt.Errorf("write kubeconfig: %w", err)
	}
	if err := l.prepareHub(); err != nil {
		return err
	}
	err = render.File(l.template("bridge.yaml.tmpl"), l.bridgeConf(), map[string]string{
		"Kubeconfig": creds.Bridge, "HubURL": "nats://" + hubClients,
		"Credentials": l.hubFile(accounts.BridgeCreds), "AccountsCredentials": l.hubFile(accounts.AccountsCreds),
		"OperatorKey": l.hubFile(accounts.SigningKeyFile), "SiteKey": l.hubFile(accounts.SiteKeyFile),
		"KubeletsAddress": cluster.KubeletsAddress, "KubeletsListen": bridgeKubelets,
		"CertFile": creds.Kubelets.CertFile, "KeyFile": creds.Kubelets.KeyFile, "CAFile": creds.CAFile,
		// The hub's clients and the metrics are on loopback; gateways get their configuration from the lab.
		"HubCAFile": "", "GatewaysURL": "", "MetricsListen": "127.0.0.1:10442",
	})
	if err != nil {
		return err
	}
	for _, s := range l.sites() {
		if err := l.prepareSite(s); err != nil {
			return fmt.Errorf("prepare %s: %w", s.Name, err)
		}
	}
	if err := l.prepareContexts(); err != nil {
		return err
	}
	return l.writeEnv()
}

func (l *Lab) prepareHub() error {
	dir := filepath.Dir(l.hubConf())
	if err := checkHubStore(filepath.Join(dir, "hub")); err != nil {
		return err
	}
	if err := l.operator().Create(filepath.Join(dir, "accounts")); err != nil {
		return err
	}
	ca, err := pki.NewAuthority(dir, "nats-ca")
	if err != nil {
		return err
	}
	cert, err := ca.Issue(dir, "hub", pki.Subject{Name: "hub", Hosts: []string{l.net.Address().String(), "127.0.0.1"}})
	if err != nil {
		return err
	}
	hub := fabric.Hub{
		Operator:     filepath.Join("operator", accounts.OperatorConf),
		MaxFileStore: fabric.SmallHub, MaxBatches: fabric.Batches(fabric.SmallHubSites),
		Listen: hubClients, Monitor: hubMonitor, LeafListen: hubLeaves,
		Store: filepath.Join(dir, "hub"), CertFile: cert.CertFile, KeyFile: cert.KeyFile,
	}
	return fabric.RepoTemplates(l.root).WriteHub(l.hubConf(), hub)
}

// checkHubStore reports a store whose hub had its accounts in hub.conf, as that of earlier versions:
// no account of a hub in operator mode has its name, so that nobody would be served.
func checkHubStore(dir string) error {
	old := filepath.Join(dir, "jetstream", "FABRIC")
	switch _, err := os.Stat(old); {
	case err == nil:
		return fmt.Errorf("%s is from an earlier version, whose hub had its accounts in hub.conf: delete the lab's data with `go tool task lab:down PURGE=1`, and start it again", old)
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("look at the hub's store: %w", err)
	}
	return nil
}

// prepareContexts writes the contexts of the nats command, for the users that the hub and
// the sites have.
func (l *Lab) prepareContexts() error {
	contexts := []fabric.Context{{
		Name: "hub", Description: "the hub's streams", URL: "nats://" + hubClients, Credentials: l.hubFile(accounts.AdminCreds),
	}, {
		Name: "system", Description: "the hub itself: nats --context system server …", URL: "nats://" + hubClients, Credentials: l.hubFile(accounts.SystemCreds),
	}}
	for _, s := range l.sites() {
		users, at := fabric.UsersDir(s.leafConf()), "at the site: lab exec "+s.Name+" nats --context "+s.Name
		password, err := credential.ReadPassword(filepath.Join(users, fabric.UserApplication+".conf"))
		if err != nil {
			return err
		}
		root, err := credential.ReadPassword(filepath.Join(users, fabric.UserLeaf+".conf"))
		if err != nil {
			return err
		}
		contexts = append(contexts,
			fabric.Context{
				Name: s.Name, Description: "the streams of " + s.Name + ", through the hub and the link, as its operator: to look, and to command devices",
				URL: "nats://" + hubClients, Credentials: l.operatorCreds(s), Domain: s.Name,
			},
			fabric.Context{
				Name: s.Name + "-local", Description: "the streams of " + s.Name + ", " + at + "-local …",
				URL: "nats://" + leafClients, SeedFile: filepath.Join(users, fabric.UserOperator+".nk"),
			},
			fabric.Context{
				Name: s.Name + "-app", Description: "samples and commands as an application, " + at + "-app …",
				URL: "nats://" + leafClients, User: fabric.UserApplication, Password: password,
			},
			fabric.Context{
				Name: s.Name + "-root", Description: "everything at " + s.Name + ", Secrets included, as root of the gateway, " + at + "-root …",
				URL: "nats://" + leafClients, User: fabric.UserLeaf, Password: root,
			})
	}
	return fabric.WriteContexts(l.natsConfigHome(), contexts)
}

func (l *Lab) natsConfigHome() string { return filepath.Join(l.dir, "config") }

func (l *Lab) prepareSite(s site) error {
	if err := cgroup.Create(s.cgroup); err != nil {
		return err
	}
	if err := s.crio.Write(filepath.Join(l.root, "deploy/lab")); err != nil {
		return err
	}
	natsDir := filepath.Join(s.dir, "nats")
	err := fabric.RepoTemplates(l.root).WriteLeaf(s.leafConf(), fabric.Leaf{
		Site: s.Name, Listen: leafClients, MQTT: leafMQTT, LeafUser: true, Store: filepath.Join(natsDir, "store"),
		URL: "tls://" + hubLeaves, Credentials: s.gatewayCreds(), CAFile: filepath.Join(filepath.Dir(l.hubConf()), "nats-ca.crt"),
	})
	if err != nil {
		return err
	}
	gateway, err := credential.Link(natsDir)
	if err != nil {
		return err
	}
	operator, err := credential.Seed(l.operatorSeed(s))
	if err != nil {
		return err
	}
	data := map[string]string{
		"Gateway": gateway, "Operator": operator,
		"Site": s.Name, "Node": s.node(), "NodeIP": l.net.SiteAddress(s.Site).String(),
		"RunDir": s.crio.RunDir, "CgroupRoot": "/" + s.cgroup, "KubeletRoot": s.kubeletRoot(),
		"PodLogsDir": filepath.Join(s.dir, "pod-logs"), "StaticPods": filepath.Join(s.dir, "static-pods"),
		"DataDir": filepath.Join(s.dir, "leaf"), "NATSConfig": s.leafConf(),
		"KubeletConfig": filepath.Join(s.dir, "kubelet.yaml"), "PodSubnet": s.crio.PodSubnet,
		"DMISocket": filepath.Join(s.runDir, "dmi.sock"),
	}
	if err := os.MkdirAll(data["StaticPods"], 0o755); err != nil {
		return fmt.Errorf("create folder of static pods: %w", err)
	}
	for _, file := range []string{"kubelet.yaml", "leaf.yaml", "site.yaml"} {
		if err := render.File(l.template(file+".tmpl"), filepath.Join(s.dir, file), data); err != nil {
			return err
		}
	}
	return nil
}

// writeEnv writes the file that a shell sources, and the nats command with the lab's contexts.
func (l *Lab) writeEnv() error {
	env := fmt.Sprintf("# source this file\nexport KUBECONFIG=%q\nexport PATH=%q:\"$PATH\"\n", l.Kubeconfig(), filepath.Join(l.dir, "bin"))
	if err := render.Write(filepath.Join(l.dir, "env"), []byte(env), 0o644); err != nil {
		return fmt.Errorf("write env: %w", err)
	}
	// The contexts must not hide those that the user has already.
	nats := fmt.Sprintf("#!/bin/sh\nXDG_CONFIG_HOME=%q exec %q \"$@\"\n", l.natsConfigHome(), l.bin("nats-cli"))
	if err := render.Write(l.bin("nats"), []byte(nats), 0o755); err != nil {
		return fmt.Errorf("write nats command: %w", err)
	}
	return nil
}

// awaitCredentials waits until the bridge has made the account of a site, and writes what the
// site's gateway and its operator connect with.
func (l *Lab) awaitCredentials(ctx context.Context, s site) error {
	cfg, err := cluster.Config(l.Kubeconfig())
	if err != nil {
		return err
	}
	client, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("create client: %w", err)
	}
	return l.awaitCondition(ctx, func(ctx context.Context) error {
		return cluster.WriteCredentials(ctx, client, s.Name, s.gatewaySeed(), l.operatorSeed(s))
	}, partBridge, partHub, partControlPlane)
}
