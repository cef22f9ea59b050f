// Package natstest runs real NATS servers for tests: a hub with one account per
// site, leaf servers, and between them a line that a test can cut.
//
// Servers store in temporary folders, listen on random loopback ports and end with
// the test. Nothing outside tests may import it.
package natstest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"text/template"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/petiole-io/petiole/internal/porttest"
)

// Password is the password of every user of a test's servers: "bridge" in the
// FABRIC account, and each site's name in the site's account.
const Password = "secret"

// MaxFileStore is the room that a hub's streams can reserve, in bytes. Nothing is written ahead.
const MaxFileStore = 1 << 40

// Hub is a NATS server with JetStream domain "hub", the account FABRIC and one
// account without JetStream per site.
type Hub struct {
	Server *server.Server
	conf   string
	leaf   int
}

var hubConf = template.Must(template.New("hub").Parse(`
server_name: hub
listen: "127.0.0.1:-1"
jetstream { domain: hub, store_dir: "{{.Dir}}/js", sync_interval: always, max_file_store: {{.MaxFileStore}} }
leafnodes { listen: "127.0.0.1:{{.LeafPort}}", authorization { timeout: 20 } }
{{.Settings}}
accounts {
  FABRIC {
    jetstream: enabled
    users: [ { user: bridge, password: "{{.Password}}" } ]
    exports: [
      { service: "$JS.API.CONSUMER.RESET.DESIRED.*", account_token_position: 6 }
      { service: "$JS.API.CONSUMER.MSG.NEXT.DESIRED.*", response_type: stream, account_token_position: 7 }
      { service: "$JS.ACK.DESIRED.*.>", account_token_position: 4 }
      { stream: "sync.*", account_token_position: 2 }
      { service: "reported.*.>", account_token_position: 2 }
      { service: "telemetry.*.>", account_token_position: 2 }
      { service: "presence.*", account_token_position: 2 }
      { service: "request.*.>", account_token_position: 2 }
      { stream: "tunnel.*.>", account_token_position: 2 }
      { service: "return.*.>", account_token_position: 2 }
    ]
  }
  {{- range .Sites}}
  "{{.}}" {
    users: [ { user: "{{.}}", password: "{{$.Password}}" } ]
    imports: [
      { service: { account: FABRIC, subject: "$JS.API.CONSUMER.RESET.DESIRED.{{.}}" }, to: "$JS.FABRIC.API.CONSUMER.RESET.DESIRED.{{.}}" }
      { service: { account: FABRIC, subject: "$JS.API.CONSUMER.MSG.NEXT.DESIRED.{{.}}" }, to: "$JS.FABRIC.API.CONSUMER.MSG.NEXT.DESIRED.{{.}}" }
      { service: { account: FABRIC, subject: "$JS.ACK.DESIRED.{{.}}.>" } }
      { stream: { account: FABRIC, subject: "sync.{{.}}" } }
      { service: { account: FABRIC, subject: "reported.{{.}}.>" } }
      { service: { account: FABRIC, subject: "telemetry.{{.}}.>" } }
      { service: { account: FABRIC, subject: "presence.{{.}}" } }
      { service: { account: FABRIC, subject: "request.{{.}}.>" } }
      { stream: { account: FABRIC, subject: "tunnel.{{.}}.>" } }
      { service: { account: FABRIC, subject: "return.{{.}}.>" } }
    ]
  }
  {{- end}}
}
`))

// StartHub runs a hub that knows the sites.
func StartHub(t testing.TB, sites ...string) *Hub { return StartHubWith(t, "", sites...) }

// StartHubWith runs a hub with more lines in its configuration, such as max_payload.
func StartHubWith(t testing.TB, settings string, sites ...string) *Hub {
	t.Helper()
	dir := t.TempDir()
	port := porttest.Port(t)
	var b bytes.Buffer
	if err := hubConf.Execute(&b, map[string]any{"Dir": dir, "Sites": sites, "Password": Password, "MaxFileStore": int64(MaxFileStore), "LeafPort": port, "Settings": settings}); err != nil {
		t.Fatal(err)
	}
	h := &Hub{conf: filepath.Join(dir, "hub.conf"), leaf: port}
	if err := os.WriteFile(h.conf, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	h.Start(t)
	t.Cleanup(h.Stop)
	return h
}

// Start runs the hub again after Stop, on the same store and leaf port.
func (h *Hub) Start(t testing.TB) { h.Server = startServer(t, h.conf) }

// Stop ends the hub and waits for it.
func (h *Hub) Stop() {
	h.Server.Shutdown()
	h.Server.WaitForShutdown()
}

// Conf returns the path of its configuration.
func (h *Hub) Conf() string { return h.conf }

// Kill ends the hub as SIGKILL does: what it would write at its end is not on disk. Nobody may store
// anything meanwhile.
func (h *Hub) Kill(t testing.TB) {
	t.Helper()
	store := h.Server.StoreDir()
	killed := filepath.Join(t.TempDir(), "killed")
	if err := os.CopyFS(killed, os.DirFS(store)); err != nil {
		t.Fatal(err)
	}
	h.Stop()
	if err := os.RemoveAll(store); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(store, os.DirFS(killed)); err != nil {
		t.Fatal(err)
	}
}

// LeafAddr returns the address that leaves connect to.
func (h *Hub) LeafAddr() string { return fmt.Sprintf("127.0.0.1:%d", h.leaf) }

// Connect returns a connection of user at the hub that ends with the test.
func (h *Hub) Connect(t testing.TB, user string) *nats.Conn {
	t.Helper()
	return connect(t, h.Server, nats.UserInfo(user, Password))
}

func connect(t testing.TB, s *server.Server, opts ...nats.Option) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(s.ClientURL(), append(opts, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func startServer(t testing.TB, conf string) *server.Server {
	t.Helper()
	opts, err := server.ProcessConfigFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	opts.NoSigs, opts.NoLog = true, true
	opts.DontListen = opts.Port == 0 // the default is port 4222 of all addresses
	s, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatalf("nats-server of %s is not ready after 10 s", conf)
	}
	return s
}
