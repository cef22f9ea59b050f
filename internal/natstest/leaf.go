package natstest

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/petiole-io/petiole/internal/porttest"
	"github.com/petiole-io/petiole/streams"
)

// Pull calls take with every message of the hub's consumer of a site, on a connection at the
// site, until the returned function is called.
func Pull(t testing.TB, nc *nats.Conn, site string, take nats.MsgHandler) (stop func() error) {
	t.Helper()
	inbox := nc.NewInbox()
	sub, err := nc.Subscribe(inbox+".*", take)
	if err != nil {
		t.Fatal(err)
	}
	body := fmt.Appendf(nil, `{"batch":1000000,"expires":%d}`, time.Hour)
	if err := nc.PublishRequest(streams.PullSubject(site), inbox+".1", body); err != nil {
		t.Fatal(err)
	}
	return sub.Unsubscribe
}

// LeafConf writes a leaf's stock nats-server configuration to a temporary folder
// and returns its path. The leaf keeps its store there, connects to hubAddr as the
// site and listens for clients on loopback.
func LeafConf(t testing.TB, site, hubAddr string) string {
	t.Helper()
	return LeafConfIn(t, t.TempDir(), site, hubAddr)
}

// LeafConfIn is LeafConf with everything in dir, which may be a small disk of its own.
func LeafConfIn(t testing.TB, dir, site, hubAddr string) string {
	t.Helper()
	k := hubKeys(t)
	creds := filepath.Join(dir, "link.creds")
	must(t, writeCreds(creds, k.token(t, site), k.gateway(t, site)))
	conf := fmt.Sprintf(`
server_name: %[1]q
listen: "127.0.0.1:%[5]d"
jetstream { domain: %[1]q, store_dir: %[2]q, sync_interval: always }
leafnodes {
  reconnect: "100ms"
  remotes: [ { url: "nats-leaf://%[3]s", credentials: %[4]q, ignore_discovered_servers: true, first_info_timeout: "20s" } ]
}
ping_interval: "4s"
ping_max: 2
`, site, filepath.Join(dir, "js"), hubAddr, creds, porttest.Port(t))
	path := filepath.Join(dir, "leaf.conf")
	if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
