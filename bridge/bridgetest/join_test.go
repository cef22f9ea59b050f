package bridgetest

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/petiole-io/petiole/bridge"
	"github.com/petiole-io/petiole/bridge/accounts"
	"github.com/petiole-io/petiole/cmd/kubectl-petiole/plugin"
	"github.com/petiole-io/petiole/internal/configfile"
	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/leaf"
	"github.com/petiole-io/petiole/leaf/join"
	"github.com/petiole-io/petiole/leaf/join/jointest"
)

// TestJoin runs what lets gateways join sites.
func TestJoin(t *testing.T) {
	runAll(t, []sharing{
		{"FromAnEmptyGatewayToAConnectedSite", joinAnEmptyGateway},
	})
}

// joinWorld is a hub with TLS in operator mode, a bridge that makes its accounts, and kubectl.
type joinWorld struct {
	*world
	hub    *natstest.OperatorHub
	bridge *bridge.Bridge
}

func newJoinWorld(t *testing.T, a *api) *joinWorld {
	t.Helper()
	w := &joinWorld{world: newWorld(t, a), hub: natstest.StartTLSOperatorHub(t)}
	cfg := w.world.config("a", "", w.kubeconfig, bridge.ImpersonationConstrained)
	cfg.NATS.URLs, cfg.NATS.CredentialsFile = []string{w.hub.URL()}, w.hub.File(accounts.BridgeCreds)
	cfg.NATS.Accounts = bridge.AccountsConfig{
		CredentialsFile: w.hub.File(accounts.AccountsCreds), OperatorKeyFile: w.hub.File(accounts.SigningKeyFile), SiteKeyFile: w.hub.File(accounts.SiteKeyFile),
	}
	cfg.Gateways = bridge.GatewaysConfig{URL: "tls://" + w.hub.LeafAddr(), CAFile: w.hub.AuthorityFile()}
	w.must(cfg.Validate())
	ctx, cancel := context.WithCancel(w.ctx)
	done := make(chan error, 1)
	w.bridge = bridge.New(cfg, zaptest.NewLogger(t, zaptest.Level(zap.InfoLevel)))
	go func() { done <- w.bridge.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		w.must(<-done)
	})
	polltest.Eventually(t, "the bridge leads", func() bool { return w.bridge.Counters().SiteRounds > 0 })
	return w
}

// kubectl runs the plugin and returns what it has printed.
func (w *joinWorld) kubectl(args ...string) string {
	w.t.Helper()
	out, err := w.tryKubectl(args...)
	if err != "" {
		w.t.Fatalf("kubectl petiole %s: %s", strings.Join(args, " "), err)
	}
	return out
}

func (w *joinWorld) tryKubectl(args ...string) (out, err string) {
	var o, e bytes.Buffer
	std := genericiooptions.IOStreams{In: strings.NewReader(""), Out: &o, ErrOut: &e}
	if plugin.Run(w.ctx, "kubectl-petiole", append(args, "--kubeconfig", w.adminKubeconfig()), std) != 0 {
		return o.String(), e.String()
	}
	return o.String(), ""
}

// command returns the URL and the token of the command that site create prints.
func command(t *testing.T, out string) (url, token string) {
	t.Helper()
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) == 4 && f[0] == "leaf" && f[1] == "join" {
			return f[2], f[3]
		}
	}
	t.Fatalf("no command in %q", out)
	return "", ""
}

// runsLeaf lets systemctl of a machine run a leaf without a kubelet.
func runsLeaf(t *testing.T, m *jointest.Machine) {
	m.Start = func(ctx context.Context) {
		cfg := leaf.DefaultConfig()
		if err := configfile.Load(filepath.Join(m.ConfigDir, "leaf.yaml"), &cfg); err != nil {
			t.Error(err)
			return
		}
		if err := cfg.Validate(); err != nil {
			t.Error(err)
		}
		cfg.Kubelet.ConfigFile, cfg.NodeAPI.Listen = "", "127.0.0.1:0"
		if err := leaf.New(cfg, "test", zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel))).Run(ctx); err != nil && ctx.Err() == nil {
			t.Error(err)
		}
	}
}

// joinAnEmptyGateway: one command in the cloud and one on the gateway, and the site is connected.
func joinAnEmptyGateway(t *testing.T, a *api) {
	w := newJoinWorld(t, a)
	out := w.kubectl("site", "create", "plant-c")
	t.Logf("site create prints:\n%s", out)
	url, token := command(t, out)
	m := jointest.New(t, "gw-7")
	runsLeaf(t, m)
	w.must(join.Run(w.ctx, m.Machine, m.Options(url, token)))
	polltest.Eventually(t, "the bridge hears the site", func() bool { return w.siteStatus("plant-c").Connected })
	// The API server has nothing that lets anybody in.
	o, err := w.dynamic.Resource(sitesGVR).Get(w.ctx, "plant-c", metav1.GetOptions{})
	w.must(err)
	data, err := o.MarshalJSON()
	w.must(err)
	if secret := strings.Split(token, ".")[1]; bytes.Contains(data, []byte(secret)) {
		t.Error("the Site contains the secret of the token")
	}
	for _, name := range []string{"leaf.yaml", "leaf.conf", "kubelet.yaml", "link.nk", "link.creds", "ca.crt"} {
		info, err := os.Stat(filepath.Join(m.ConfigDir, name))
		if err != nil {
			t.Error(err)
		} else if secret := info.Mode().Perm()&0o077 == 0; !secret && name != "ca.crt" {
			t.Errorf("%s has mode %s", name, info.Mode())
		}
	}
}

// adminKubeconfig is of a person with the role petiole-admin.
func (w *joinWorld) adminKubeconfig() string {
	w.t.Helper()
	const person = "plant-administrator"
	_, err := w.admin.RbacV1().ClusterRoleBindings().Create(w.ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: person},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "petiole-admin"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: person}},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		w.t.Fatal(err)
	}
	cfg := clientcmdapi.NewConfig()
	cfg.Clusters["c"] = &clientcmdapi.Cluster{
		Server: w.api.config.Host, TLSServerName: w.api.config.ServerName, CertificateAuthorityData: w.api.config.CAData, CertificateAuthority: w.api.config.CAFile,
	}
	cfg.AuthInfos["u"] = &clientcmdapi.AuthInfo{
		Token: w.api.config.BearerToken, ClientCertificateData: w.api.config.CertData, ClientKeyData: w.api.config.KeyData,
		ClientCertificate: w.api.config.CertFile, ClientKey: w.api.config.KeyFile, Impersonate: person,
	}
	cfg.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	cfg.CurrentContext = "x"
	path := filepath.Join(w.t.TempDir(), "kubeconfig")
	w.must(clientcmd.WriteToFile(*cfg, path))
	return path
}
