package bridgetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/petiole-io/petiole/bridge"
	"github.com/petiole-io/petiole/bridge/accounts"
	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/cmd/kubectl-petiole/plugin"
	"github.com/petiole-io/petiole/internal/configfile"
	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/internal/siege"
	"github.com/petiole-io/petiole/leaf"
	"github.com/petiole-io/petiole/leaf/join"
	"github.com/petiole-io/petiole/leaf/join/jointest"
)

// TestJoin runs what lets gateways join sites.
func TestJoin(t *testing.T) {
	runAll(t, []sharing{
		{"FromAnEmptyGatewayToAConnectedSite", joinAnEmptyGateway},
		{"OneTokenOneGateway", oneTokenOneGateway},
		{"RevokeEndsEverything", revokeEndsEverything},
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
	w := &joinWorld{world: newWorld(t, a), hub: natstest.StartTLSOperatorHub(t, "127.0.0.1")}
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
	// The API server's authorizer learns of the binding by a watch.
	eventually(w.t, "rights of "+person, func() bool {
		review, err := w.admin.AuthorizationV1().SubjectAccessReviews().Create(w.ctx, &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User:               person,
			ResourceAttributes: &authorizationv1.ResourceAttributes{Group: v1alpha1.Sites.Group, Resource: "sites", Verb: "create"},
		}}, metav1.CreateOptions{})
		w.must(err)
		return review.Status.Allowed
	})
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

// joins lets a machine join without starting its leaf, and returns the error and the node.
func (w *joinWorld) joins(m *jointest.Machine, url, token, node string) (string, error) {
	w.t.Helper()
	o := m.Options(url, token)
	o.NoStart, o.Node = true, node
	if err := join.Run(w.ctx, m.Machine, o); err != nil {
		return "", err
	}
	cfg := leaf.DefaultConfig()
	w.must(configfile.Load(filepath.Join(m.ConfigDir, "leaf.yaml"), &cfg))
	return cfg.Node, nil
}

func (w *joinWorld) gateways(site string) []string {
	w.t.Helper()
	o, err := w.dynamic.Resource(sitesGVR).Get(w.ctx, site, metav1.GetOptions{})
	w.must(err)
	keys, _, err := unstructured.NestedStringSlice(o.Object, "spec", "gateways")
	w.must(err)
	return keys
}

// refused fails the test unless a join was refused with all of want, and left nothing.
func (w *joinWorld) refused(m *jointest.Machine, err error, want ...string) {
	w.t.Helper()
	if err == nil {
		w.t.Fatal("the gateway has joined")
	}
	w.t.Logf("refused: %v", err)
	for _, part := range want {
		if !strings.Contains(err.Error(), part) {
			w.t.Errorf("the error does not say %q", part)
		}
	}
	entries, err := os.ReadDir(m.ConfigDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) || len(entries) > 0 {
		w.t.Errorf("left: %v, %v", entries, err)
	}
}

// oneTokenOneGateway: of several gateways with one token one joins; a rejoin lets another in, in
// addition or instead; a revoked site and a replaced token let nobody in.
func oneTokenOneGateway(t *testing.T, a *api) {
	w := newJoinWorld(t, a)
	url, token := command(t, w.kubectl("site", "create", "plant-c", "--node", "press-1"))
	if _, err := w.tryKubectl("site", "create", "plant-c"); !strings.Contains(err, "site rejoin plant-c") {
		t.Errorf("create again says %q", err)
	}
	wrong := jointest.New(t, "gw-0")
	_, err := w.joins(wrong, url, token, "lathe-9")
	w.refused(wrong, err, "NodeNotAllowed", "lathe-9", "--node NAME")

	// Several at once.
	type result struct {
		m   *jointest.Machine
		err error
	}
	results := make(chan result)
	const n = 4
	for i := range n {
		m := jointest.New(t, fmt.Sprintf("gw-%d", i+1))
		go func() {
			o := m.Options(url, token)
			o.NoStart = true
			results <- result{m: m, err: join.Run(w.ctx, m.Machine, o)}
		}()
	}
	var first *jointest.Machine
	for range n {
		r := <-results
		switch {
		case r.err == nil && first != nil:
			t.Error("two gateways have joined with one token")
		case r.err == nil:
			first = r.m
		case strings.Contains(r.err.Error(), "maximum"): // too many connections with one token
			if !strings.Contains(r.err.Error(), "another machine") {
				t.Errorf("the error names no other machine: %v", r.err)
			}
		default:
			w.refused(r.m, r.err, "Used", "site revoke plant-c")
		}
	}
	if first == nil || len(w.gateways("plant-c")) != 1 {
		t.Fatalf("joined: %v; gateways %v", first, w.gateways("plant-c"))
	}
	late := jointest.New(t, "gw-late")
	_, err = w.joins(late, url, token, "")
	w.refused(late, err, "Used", w.gateways("plant-c")[0])

	// The first again, with the same command, changes nothing.
	before := w.gateways("plant-c")
	if node, err := w.joins(first, url, token, ""); err != nil || node != "press-1" {
		t.Errorf("again: node %q, %v", node, err)
	}
	if got := w.gateways("plant-c"); !slices.Equal(got, before) {
		t.Errorf("gateways %v, had %v", got, before)
	}

	// A second gateway beside it, and no third.
	url, token = command(t, w.kubectl("site", "rejoin", "plant-c"))
	second := jointest.New(t, "gw-second")
	if node, err := w.joins(second, url, token, ""); err != nil || node != "press-1" {
		t.Errorf("the second: node %q, %v", node, err)
	}
	if got := w.gateways("plant-c"); len(got) != 2 || got[0] != before[0] {
		t.Errorf("gateways %v, had %v", got, before)
	}
	url, token = command(t, w.kubectl("site", "rejoin", "plant-c"))
	third := jointest.New(t, "gw-third")
	_, err = w.joins(third, url, token, "")
	w.refused(third, err, "TooManyGateways", "site rejoin plant-c --only")

	// It takes the place of both, whose connections end.
	url, replacing := command(t, w.kubectl("site", "rejoin", "plant-c", "--only"))
	_, err = w.joins(jointest.New(t, "gw-late"), url, token, "") // of before
	if err == nil || !strings.Contains(err.Error(), "does not accept the token") {
		t.Errorf("a replaced token: %v", err)
	}
	old := second.Connected("plant-c")
	if node, err := w.joins(third, url, replacing, ""); err != nil || node != "press-1" {
		t.Errorf("the replacement: node %q, %v", node, err)
	}
	if got := w.gateways("plant-c"); len(got) != 1 || slices.Contains(before, got[0]) {
		t.Errorf("gateways %v", got)
	}
	polltest.Eventually(t, "the old gateway is not connected", func() bool { return old.HubConnection() == 0 })

	// Revoked, nobody gets in, with an open token neither; with a new one the same machine does.
	_, open := command(t, w.kubectl("site", "rejoin", "plant-c"))
	w.kubectl("site", "revoke", "plant-c")
	_, err = w.joins(jointest.New(t, "gw-late"), url, open, "")
	if err == nil || !strings.Contains(err.Error(), "does not accept the token") {
		t.Errorf("a token of before the site was revoked: %v", err)
	}
	_, open = command(t, w.kubectl("site", "rejoin", "plant-c"))
	revoked := readFile(t, filepath.Join(third.ConfigDir, "link.nk"))
	if node, err := w.joins(third, url, open, ""); err != nil || node != "press-1" {
		t.Errorf("after the site was revoked: node %q, %v", node, err)
	}
	if readFile(t, filepath.Join(third.ConfigDir, "link.nk")) == revoked {
		t.Error("the key that was revoked is used again")
	}
}

// revokeEndsEverything: one command in the cloud, and within 10 s the gateway has no connection, the
// tokens of its pods are worth nothing, and the name of its node is free.
func revokeEndsEverything(t *testing.T, a *api) {
	w := newJoinWorld(t, a)
	url, token := command(t, w.kubectl("site", "create", "plant-c"))
	m := jointest.New(t, "gw-7")
	_, err := w.joins(m, url, token, "")
	w.must(err)
	gateway := m.Connected("plant-c")
	node := "gw-" + w.namespace
	_, err = w.admin.CoreV1().Nodes().Create(w.ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node, Labels: map[string]string{v1alpha1.SiteLabel: "plant-c"}}}, metav1.CreateOptions{})
	w.must(err)
	w.configMap("settings", "1")
	pod := w.pod("web", node, "settings")
	// The API server remembers for 10 s that a token is good: another one is tried afterwards.
	var tokens []string
	for range 2 {
		bound, err := w.admin.CoreV1().ServiceAccounts(w.namespace).CreateToken(w.ctx, "default", &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
			BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
		}}, metav1.CreateOptions{})
		w.must(err)
		tokens = append(tokens, bound.Status.Token)
	}
	authenticates := func(i int) bool {
		t.Helper()
		review, err := w.admin.AuthenticationV1().TokenReviews().Create(w.ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: tokens[i]}}, metav1.CreateOptions{})
		w.must(err)
		return review.Status.Authenticated
	}
	eventually(t, "a token is good", func() bool { return authenticates(0) })
	start := time.Now()
	w.kubectl("site", "revoke", "plant-c")
	polltest.Eventually(t, "the gateway has no connection", func() bool { return gateway.HubConnection() == 0 })
	siege.CheckRevoked(t, "revoked → no connection", time.Since(start))
	eventually(t, "the token has ended", func() bool { return !authenticates(1) })
	siege.CheckRevoked(t, "revoked → tokens have ended", time.Since(start))
	eventually(t, "the name is free", func() bool { return len(w.siteStatus("plant-c").OwnedNodes) == 0 && !w.hasNode(node) })
	siege.CheckRevoked(t, "revoked → names are free", time.Since(start))
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
