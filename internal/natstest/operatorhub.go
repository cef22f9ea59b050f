package natstest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/petiole-io/petiole/bridge/accounts"
	"github.com/petiole-io/petiole/internal/lab/pki"
	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/internal/porttest"
)

// OperatorHub is a stock nats-server in operator mode, a process of its own, with the keys and
// the accounts that `bridge hub init` creates.
type OperatorHub struct {
	Keys     *accounts.Keys
	Resolver *accounts.Resolver
	dir      string
	client   string
	leaf     string
	ws       string
	ca       string
	stop     func()
}

// StartOperatorHub builds and runs a hub without sites.
func StartOperatorHub(t testing.TB) *OperatorHub {
	t.Helper()
	return startOperatorHub(t, t.TempDir(), "")
}

// StartTLSOperatorHub is StartOperatorHub with TLS on the leaf listener, and a WebSocket listener with
// TLS. AuthorityFile verifies the certificate, which names the hosts.
func StartTLSOperatorHub(t testing.TB, hosts ...string) *OperatorHub {
	t.Helper()
	dir := t.TempDir()
	authority, err := pki.NewAuthority(dir, "ca")
	must(t, err)
	pair, err := authority.Issue(dir, "hub", pki.Subject{Name: "hub", Hosts: hosts})
	must(t, err)
	tls, ws := fmt.Sprintf("tls { cert_file: %q, key_file: %q, timeout: 5 }", pair.CertFile, pair.KeyFile), porttest.Addr(t)
	h := startOperatorHub(t, dir, fmt.Sprintf("%s\n}\nwebsocket {\n  listen: %q, compression: true\n  %s", tls, ws, tls))
	h.ca, h.ws = authority.CertFile, ws
	return h
}

func startOperatorHub(t testing.TB, dir, leafSettings string) *OperatorHub {
	t.Helper()
	h := &OperatorHub{dir: dir, client: porttest.Addr(t), leaf: porttest.Addr(t)}
	must(t, accounts.WriteHub(filepath.Join(dir, keysDir), filepath.Join(dir, accountsDir)))
	must(t, os.WriteFile(h.File("hub.conf"), fmt.Appendf(nil, `
server_name: hub
listen: %q
jetstream { domain: hub, store_dir: %q, sync_interval: always }
leafnodes {
  listen: %q
  %s
}
ping_interval: "5s"
ping_max: 2
include %q
`, h.client, filepath.Join(dir, "js"), h.leaf, leafSettings, accounts.OperatorConf), 0o600))
	if out, err := exec.Command("go", "build", "-o", filepath.Join(dir, "nats-server"), "github.com/nats-io/nats-server/v2").CombinedOutput(); err != nil {
		t.Fatalf("build nats-server: %v: %s", err, out)
	}
	h.run(t)
	var err error
	h.Keys, err = accounts.LoadKeys(accounts.Files{
		OperatorKey: h.File(accounts.SigningKeyFile), SiteKey: h.File(accounts.SiteKeyFile), Bridge: h.File(accounts.BridgeCreds),
	})
	must(t, err)
	h.Resolver = accounts.NewResolver(h.Connect(t, accounts.AccountsCreds), h.Keys)
	return h
}

// run starts the server. It ends with the test, or with stop.
func (h *OperatorHub) run(t testing.TB) {
	t.Helper()
	path := filepath.Join(h.dir, "hub.log")
	log, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(t, err)
	cmd := exec.Command(filepath.Join(h.dir, "nats-server"), "-c", h.File("hub.conf"))
	cmd.Stderr = log
	must(t, cmd.Start())
	h.stop = sync.OnceFunc(func() {
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait() // killed
		_ = log.Close()
	})
	stop := h.stop
	t.Cleanup(func() {
		stop()
		if data, err := os.ReadFile(path); err == nil && t.Failed() {
			t.Logf("the end of the hub's log:\n%s", data[max(0, len(data)-4000):])
		}
	})
}

// Stop kills the server.
func (h *OperatorHub) Stop() { h.stop() }

// Restart kills the server and starts it again on its files.
func (h *OperatorHub) Restart(t testing.TB) {
	t.Helper()
	h.stop()
	h.run(t)
}

// File returns the path of a file that accounts.WriteHub has created.
func (h *OperatorHub) File(name string) string { return filepath.Join(h.dir, keysDir, name) }

// AccountsDir returns the folder in which the hub keeps its accounts.
func (h *OperatorHub) AccountsDir() string { return filepath.Join(h.dir, accountsDir) }

// URL is where clients connect, LeafAddr where leaf nodes do.
func (h *OperatorHub) URL() string { return "nats://" + h.client }

// AuthorityFile returns the certificate authority of a hub with TLS.
func (h *OperatorHub) AuthorityFile() string { return h.ca }

// LeafAddr returns the address that leaves connect to.
func (h *OperatorHub) LeafAddr() string { return h.leaf }

// WebSocketURL returns where leaves connect by WebSocket to a hub with TLS.
func (h *OperatorHub) WebSocketURL() string { return "wss://" + h.ws }

// Connect returns a connection with one of the hub's credentials that ends with the test. It
// waits until the hub runs.
func (h *OperatorHub) Connect(t testing.TB, creds string) *nats.Conn {
	t.Helper()
	var nc *nats.Conn
	polltest.NoError(t, "the hub accepts "+creds, func(context.Context) (err error) {
		nc, err = nats.Connect(h.URL(), nats.UserCredentials(h.File(creds)), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
		return err
	})
	t.Cleanup(nc.Close)
	return nc
}

// Store stores the accounts of a site at the hub.
func (h *OperatorHub) Store(t testing.TB, s accounts.Site) {
	t.Helper()
	claims, err := h.Keys.Claims(s)
	must(t, err)
	for _, c := range claims {
		must(t, h.Resolver.Store(t.Context(), c))
	}
}

// GatewayCreds writes the credentials of a site's gateway and returns their path.
func (h *OperatorHub) GatewayCreds(t testing.TB, site string, u User) string {
	t.Helper()
	token, err := h.Keys.GatewayToken(site, u.Public, "")
	must(t, err)
	return WriteCreds(t, token, u)
}

// WriteCreds writes a credentials file and returns its path.
func WriteCreds(t testing.TB, token string, u User) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "user.creds")
	must(t, writeCreds(path, token, u))
	return path
}

func writeCreds(path, token string, u User) error {
	creds, err := jwt.FormatUserConfig(token, []byte(u.Seed))
	if err != nil {
		return err
	}
	return os.WriteFile(path, creds, 0o600)
}

// OperatorLeafConf is LeafConf for a hub in operator mode, with the leaf's own account.
func OperatorLeafConf(t testing.TB, site, hubAddr, creds string) string {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "leaf.conf")
	must(t, os.WriteFile(path, fmt.Appendf(nil, `
server_name: %[1]q
jetstream { domain: %[1]q, store_dir: %[2]q, sync_interval: always }
accounts { SITE { jetstream: enabled } }
leafnodes {
  reconnect: "100ms"
  remotes: [ { url: "nats-leaf://%[3]s", account: SITE, credentials: %[4]q, ignore_discovered_servers: true, first_info_timeout: "20s" } ]
}
ping_interval: "4s"
ping_max: 2
`, site, filepath.Join(dir, "js"), hubAddr, creds), 0o600))
	return path
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// StartServer runs a server in this process, from its configuration file, until the test ends.
func StartServer(t testing.TB, conf string) *server.Server {
	t.Helper()
	s := startServer(t, conf)
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	return s
}
