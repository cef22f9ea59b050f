// Package natstest runs real NATS servers for tests: hubs in operator mode with the accounts that the
// bridge makes, leaf servers, and between them a line that a test can cut.
//
// Servers store in temporary folders, listen on random loopback ports and end with
// the test. All hubs of a process have the same keys, and a site has the same gateway at each of
// them. Nothing outside tests may import it.
package natstest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"text/template"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/petiole-io/petiole/bridge/accounts"
	"github.com/petiole-io/petiole/internal/porttest"
)

// MaxFileStore is the room that a hub's streams can reserve, in bytes. Nothing is written ahead.
const MaxFileStore = 1 << 40

// Hub is a NATS server in this process, in operator mode, with JetStream domain "hub". Its accounts
// are those that `bridge hub init` creates and the bridge makes.
type Hub struct {
	Server *server.Server
	dir    string
	leaf   int
}

// The pings are those of deploy/nats/hub.conf.tmpl: until the hub has noticed that a leaf's connection is
// dead, it refuses the next.
var hubConf = template.Must(template.New("hub").Parse(`
server_name: hub
listen: "127.0.0.1:-1"
jetstream { domain: hub, store_dir: "{{.Dir}}/js", sync_interval: always, max_file_store: {{.MaxFileStore}} }
leafnodes {
  listen: "127.0.0.1:{{.LeafPort}}"
  authorization { timeout: 20 }
  compression: { mode: s2_auto, rtt_thresholds: [ "10ms", "50ms", "24h" ] }
}
ping_interval: "5s"
ping_max: 2
{{.Settings}}
include {{.Operator}}
`))

// StartHub runs a hub that has accounts for the sites.
func StartHub(t testing.TB, sites ...string) *Hub { return StartHubWith(t, "", sites...) }

// StartHubWith runs a hub with more lines in its configuration, such as max_payload.
func StartHubWith(t testing.TB, settings string, sites ...string) *Hub {
	t.Helper()
	h := &Hub{dir: t.TempDir(), leaf: porttest.Port(t)}
	operator := hubKeys(t).write(t, h.dir)
	for _, site := range sites {
		h.WriteSite(t, site, func(*jwt.AccountClaims) {})
	}
	var b bytes.Buffer
	must(t, hubConf.Execute(&b, map[string]any{
		"Dir": h.dir, "MaxFileStore": int64(MaxFileStore), "LeafPort": h.leaf, "Settings": settings, "Operator": strconv.Quote(operator),
	}))
	must(t, os.WriteFile(h.Conf(), b.Bytes(), 0o600))
	h.Start(t)
	t.Cleanup(h.Stop)
	return h
}

// WriteSite writes the account of a site, whose claims edit may change. A hub reads it when it starts.
// Clients may use it as well, which stand in for a leaf.
func (h *Hub) WriteSite(t testing.TB, site string, edit func(*jwt.AccountClaims)) {
	t.Helper()
	k := hubKeys(t)
	claims, err := k.keys.Claims(accounts.Site{Name: site, Gateways: []string{k.gateway(t, site).Public}})
	must(t, err)
	account := claims[0]
	account.Limits.Conn = jwt.NoLimit
	for _, s := range account.SigningKeys {
		s.(*jwt.UserScope).Template.AllowedConnectionTypes.Add(jwt.ConnectionTypeStandard)
	}
	edit(account)
	token, err := k.keys.Sign(account)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(h.dir, accountsDir, account.Subject+".jwt"), []byte(token), 0o600))
}

// Start runs the hub again after Stop, on the same store and leaf port.
func (h *Hub) Start(t testing.TB) { h.Server = startServer(t, h.Conf()) }

// Stop ends the hub and waits for it.
func (h *Hub) Stop() {
	h.Server.Shutdown()
	h.Server.WaitForShutdown()
}

// Conf returns the path of its configuration.
func (h *Hub) Conf() string { return filepath.Join(h.dir, "hub.conf") }

// BridgeCreds returns the path of the bridge's credentials.
func (h *Hub) BridgeCreds() string { return filepath.Join(h.dir, keysDir, accounts.BridgeCreds) }

// Kill ends the hub as SIGKILL does: what it would write at its end is not on disk. Nobody may store
// anything meanwhile.
func (h *Hub) Kill(t testing.TB) {
	t.Helper()
	store := h.Server.StoreDir()
	killed := filepath.Join(t.TempDir(), "killed")
	must(t, os.CopyFS(killed, os.DirFS(store)))
	h.Stop()
	must(t, os.RemoveAll(store))
	must(t, os.CopyFS(store, os.DirFS(killed)))
}

// LeafAddr returns the address that leaves connect to.
func (h *Hub) LeafAddr() string { return fmt.Sprintf("127.0.0.1:%d", h.leaf) }

// Connect returns a connection at the hub that ends with the test: of the bridge, if user is
// "bridge", and otherwise of a client in the account of the site, with the rights of its gateway.
func (h *Hub) Connect(t testing.TB, user string) *nats.Conn {
	t.Helper()
	opts := []nats.Option{nats.UserCredentials(h.BridgeCreds())}
	if user != "bridge" {
		k := hubKeys(t)
		opts = []nats.Option{nats.UserJWTAndSeed(k.token(t, user), k.gateway(t, user).Seed), nats.CustomInboxPrefix("_INBOX_" + user)}
	}
	nc, err := nats.Connect(h.Server.ClientURL(), append(opts, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))...)
	must(t, err)
	t.Cleanup(nc.Close)
	return nc
}

func startServer(t testing.TB, conf string) *server.Server {
	t.Helper()
	opts, err := server.ProcessConfigFile(conf)
	must(t, err)
	opts.NoSigs, opts.NoLog = true, true
	opts.DontListen = opts.Port == 0 // the default is port 4222 of all addresses
	s, err := server.NewServer(opts)
	must(t, err)
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatalf("nats-server of %s is not ready after 10 s", conf)
	}
	return s
}
