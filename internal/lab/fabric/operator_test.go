package fabric

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/bridge/accounts"
	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/internal/porttest"
	"github.com/petiole-io/petiole/leaf/credential"
	"github.com/petiole-io/petiole/streams"
)

// TestOperatorModeAsDeployed runs the hub and a leaf from the templates in operator mode, with
// TLS, each step as docs/install.md says: the gateway is served, takes its objects and
// acknowledges them, its operator sees it, and a revoked one is gone within 10 s.
func TestOperatorModeAsDeployed(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	w := prepareWorld(t)
	dir := filepath.Join(w.dir, "operator")
	must(t, accounts.WriteHub(dir, filepath.Join(w.dir, "accounts")))
	w.hub.Operator, w.hub.ClientTLS, w.url = filepath.Join("operator", accounts.OperatorConf), true, "tls://"+w.hub.Listen
	w.runHub(t, w.writeHub(t))
	connect := func(creds string) (nc *nats.Conn) {
		t.Helper()
		polltest.NoError(t, "the hub accepts "+creds, func(context.Context) (err error) {
			nc, err = nats.Connect(w.url, nats.UserCredentials(creds), nats.RootCAs(w.authority.CertFile))
			return err
		})
		t.Cleanup(nc.Close)
		return nc
	}
	keys, err := accounts.LoadKeys(accounts.Files{
		OperatorKey: filepath.Join(dir, accounts.SigningKeyFile), SiteKey: filepath.Join(dir, accounts.SiteKeyFile), Bridge: filepath.Join(dir, accounts.BridgeCreds),
	})
	must(t, err)
	resolver := accounts.NewResolver(connect(filepath.Join(dir, accounts.AccountsCreds)), keys)
	store := func(s accounts.Site) {
		t.Helper()
		claims, err := keys.Claims(s)
		must(t, err)
		for _, c := range claims {
			must(t, resolver.Store(ctx, c))
		}
	}
	hubJS, err := jetstream.NewWithDomain(connect(filepath.Join(dir, accounts.BridgeCreds)), streams.HubDomain)
	must(t, err)
	must(t, streams.Ensure(ctx, hubJS, streams.HubStreams(streams.HubLimits{})))
	must(t, streams.EnsureConsumer(ctx, hubJS, streams.Desired, streams.SiteConsumer("plant-a")))

	// On the gateway: leaf link, the public key into the Site, the JWT back.
	site := filepath.Join(w.dir, "plant-a")
	gateway, err := credential.Link(site)
	must(t, err)
	operator, err := credential.Seed(filepath.Join(w.dir, "operator.nk"))
	must(t, err)
	s := accounts.Site{Name: "plant-a", Gateways: []string{gateway}, Operators: []string{operator}}
	start := time.Now()
	store(s)
	token, err := keys.GatewayToken("plant-a", gateway, "")
	must(t, err)
	creds, err := credential.LinkCredentials(site, token)
	must(t, err)
	conf, listen := filepath.Join(site, "leaf.conf"), porttest.Addr(t)
	must(t, w.templates.WriteLeaf(conf, Leaf{
		Site: "plant-a", Listen: listen, MQTT: porttest.Addr(t), LeafUser: true, Store: filepath.Join(site, "js"),
		URL: "tls://" + w.hub.LeafListen, Credentials: creds, CAFile: w.authority.CertFile,
	}))
	run(t, conf)
	password, err := credential.ReadPassword(filepath.Join(UsersDir(conf), UserLeaf+".conf"))
	must(t, err)
	atSite, err := nats.Connect("nats://"+listen, nats.UserInfo(UserLeaf, password), nats.CustomInboxPrefix("_INBOX_plant-a"))
	must(t, err)
	t.Cleanup(atSite.Close)
	siteJS, err := jetstream.New(atSite)
	must(t, err)
	must(t, streams.Ensure(ctx, siteJS, streams.LeafStreams("plant-a", streams.LeafLimits{})))
	linked(t, atSite, "plant-a")
	t.Logf("MEASURED stored → the hub answers the site: %s", time.Since(start).Round(time.Millisecond))

	stored, pull := storeDeliveries(t, atSite)
	pull()
	putConfigMap(t, ctx, hubJS, "plant-a", "one", "0")
	polltest.Eventually(t, "the object is at the site", func() bool { return stored() == 1 })
	polltest.Eventually(t, "the acknowledgement is at the hub", func() bool { return pending(t, ctx, hubJS, "plant-a") == 0 })
	atHub := w.operatorOf(t, keys, "plant-a", operator)
	js, err := jetstream.NewWithDomain(connect(atHub), "plant-a")
	must(t, err)
	found, err := js.Stream(ctx, streams.SiteDesired)
	must(t, err)
	if n := found.CachedInfo().State.Msgs; n != 1 {
		t.Errorf("SITE_DESIRED through the hub has %d messages, want 1", n)
	}
	short, end := context.WithTimeout(ctx, time.Second) // the hub drops what he may not send
	defer end()
	if _, err := found.GetMsg(short, 1); err == nil {
		t.Error("the operator reads SITE_DESIRED, which may hold Secrets")
	}

	start = time.Now()
	store(accounts.Site{Name: "plant-a"})
	polltest.Eventually(t, "the hub no longer answers the site", func() bool {
		_, err := atSite.Request(streams.ResetSubject("plant-a"), nil, 100*time.Millisecond)
		return err != nil
	})
	took := time.Since(start)
	t.Logf("MEASURED revoked → gone: %s", took.Round(time.Millisecond))
	if took > 10*time.Second {
		t.Errorf("gone after %s, want 10 s at most", took)
	}
	store(s)
	linked(t, atSite, "plant-a")
}

// operatorOf writes the credentials of an operator of a site and returns their path.
func (w *world) operatorOf(t *testing.T, keys *accounts.Keys, site, public string) string {
	t.Helper()
	token, err := keys.OperatorToken(site, public, "")
	must(t, err)
	dir := filepath.Join(w.dir, "person")
	must(t, os.MkdirAll(dir, 0o700))
	must(t, os.Rename(filepath.Join(w.dir, "operator.nk"), filepath.Join(dir, "link.nk")))
	creds, err := credential.LinkCredentials(dir, token)
	must(t, err)
	return creds
}

// runHub builds a stock nats-server and runs it, as a process of its own.
func (w *world) runHub(t *testing.T, conf string) {
	t.Helper()
	bin := filepath.Join(w.dir, "nats-server")
	if out, err := exec.Command("go", "build", "-o", bin, "github.com/nats-io/nats-server/v2").CombinedOutput(); err != nil {
		t.Fatalf("build nats-server: %v: %s", err, out)
	}
	cmd := exec.Command(bin, "-c", conf)
	must(t, cmd.Start())
	t.Cleanup(func() {
		must(t, cmd.Process.Kill())
		_ = cmd.Wait() // killed
	})
}
