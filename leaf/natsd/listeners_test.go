package natsd

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/internal/lab/fabric"
	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/leaf/credential"
	"github.com/petiole-io/petiole/streams"
)

// deployed renders the deployed configuration for a leaf without a hub.
func deployed(t *testing.T, l fabric.Leaf) (conf string) {
	t.Helper()
	dir := t.TempDir()
	l.Site, l.Store, l.SeedFile, l.URL = "plant-a", filepath.Join(dir, "js"), filepath.Join(dir, "leaf.nk"), "nats-leaf://127.0.0.1:1"
	if _, err := credential.Seed(l.SeedFile); err != nil {
		t.Fatal(err)
	}
	conf = filepath.Join(dir, "leaf.conf")
	if err := fabric.RepoTemplates("../..").WriteLeaf(conf, l); err != nil {
		t.Fatal(err)
	}
	return conf
}

// TestNothingListensUnasked starts the deployed configuration without a listener: the leaf
// works in process, and no address answers.
func TestNothingListensUnasked(t *testing.T) {
	s, nc := run(t, deployed(t, fabric.Leaf{}))
	if addr := s.server().Addr(); addr != nil {
		t.Errorf("the server listens at %s", addr)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := streams.Ensure(t.Context(), js, streams.LeafStreams("plant-a", streams.LeafLimits{})); err != nil {
		t.Errorf("the leaf makes its streams: %v", err)
	}
}

// TestListenerLetsOnlyUsersIn starts the deployed configuration with a listener in the
// leaf, and a configuration that says nothing about users.
func TestListenerLetsOnlyUsersIn(t *testing.T) {
	for name, conf := range map[string]string{
		"deployed":         deployed(t, fabric.Leaf{Listen: "127.0.0.1:-1"}),
		"no authorization": natstest.LeafConf(t, "plant-a", "127.0.0.1:1"),
	} {
		t.Run(name, func(t *testing.T) {
			s, nc := run(t, conf)
			if _, err := nc.Request("$JS.API.INFO", nil, 5*time.Second); err != nil {
				t.Errorf("the leaf itself: %v", err)
			}
			nkey, err := s.key.PublicKey()
			if err != nil {
				t.Fatal(err)
			}
			addr := s.server().Addr()
			if addr == nil {
				t.Fatal("no listener")
			}
			for _, opt := range []nats.Option{nats.Name("nobody"), nats.UserInfo("gateway", ""), nats.Nkey(nkey, s.key.Sign)} {
				if nc, err := nats.Connect("nats://"+addr.String(), opt); err == nil {
					nc.Close()
					t.Error("somebody without a credential is let in, or the leaf from outside of the process")
				}
			}
		})
	}
}

// TestOpenConfigurationIsRefused writes configurations that would let anybody in.
func TestOpenConfigurationIsRefused(t *testing.T) {
	for name, c := range map[string]struct{ conf, want string }{
		"no_auth_user":           {`no_auth_user: gateway, authorization { users: [ { user: gateway, password: "x" } ] }`, `no_auth_user "gateway"`},
		"mqtt.no_auth_user":      {`mqtt { listen: "127.0.0.1:-1", no_auth_user: a }, authorization { users: [ { user: a, password: "x" } ] }`, `mqtt.no_auth_user "a"`},
		"websocket.no_auth_user": {`websocket { listen: "127.0.0.1:-1", no_tls: true, no_auth_user: a }, authorization { users: [ { user: a, password: "x" } ] }`, `websocket.no_auth_user "a"`},
		"empty password":         {`authorization { users: [ { user: a, password: "" } ] }`, `the empty password of user "a"`},
		"cluster":                {`cluster { name: c, listen: "127.0.0.1:-1" }`, "cluster"},
		"monitoring for all":     {`http: "0.0.0.0:8222", listen: "127.0.0.1:-1"`, "the monitoring listener"},
		"single user":            {`authorization { user: a, password: b }`, "authorization.users"},
		"nats-server's own key":  {`jetstream { store_dir: "/tmp/x", key: "secret" }`, "storage.encryption"},
		"token":                  {`authorization { token: b }`, "authorization.users"},
	} {
		t.Run(name, func(t *testing.T) {
			conf := natstest.LeafConf(t, "plant-a", "127.0.0.1:1")
			text, err := os.ReadFile(conf)
			if err == nil {
				err = os.WriteFile(conf, append(text, c.conf...), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			s, err := Start(ctx, Config{Site: "plant-a", File: conf, Log: zap.NewNop()})
			if err == nil {
				s.Stop()
				t.Fatal("the leaf starts with it")
			}
			if !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), conf) {
				t.Errorf("the error is %q, want the file and %q in it", err, c.want)
			}
		})
	}
}

// TestStoreOfTheDefaultAccountIsTakenOver starts the deployed configuration on the store of
// a gateway whose leaf had no account of its own.
func TestStoreOfTheDefaultAccountIsTakenOver(t *testing.T) {
	old := natstest.LeafConf(t, "plant-a", "127.0.0.1:1")
	s, nc := run(t, old)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := streams.Ensure(t.Context(), js, streams.LeafStreams("plant-a", streams.LeafLimits{})); err != nil {
		t.Fatal(err)
	}
	subject := streams.LocalTelemetrySubject("sample", "default", "pump")
	if _, err := js.Publish(t.Context(), subject, []byte("waits")); err != nil {
		t.Fatal(err)
	}
	nc.Close()
	s.Stop()

	conf := deployed(t, fabric.Leaf{})
	if err := os.Rename(filepath.Join(filepath.Dir(old), "js"), filepath.Join(filepath.Dir(conf), "js")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		s, nc = run(t, conf)
		if js, err = jetstream.New(nc); err != nil {
			t.Fatal(err)
		}
		stream, err := js.Stream(t.Context(), streams.SiteTelemetry)
		if err != nil {
			t.Fatalf("what waits for the link is forgotten: %v", err)
		}
		if m, err := stream.GetLastMsgForSubject(t.Context(), subject); err != nil || string(m.Data) != "waits" {
			t.Errorf("the record is %v: %v", m, err)
		}
		nc.Close()
		s.Stop()
	}
}

// TestPlainTextHubIsRefused names hubs to which Secrets would travel in plain text, or that
// anybody could pretend to be.
func TestPlainTextHubIsRefused(t *testing.T) {
	for remote, want := range map[string]string{
		`url: "nats-leaf://hub.example.com:7422"`:                             "use tls://",
		`url: "nats://10.1.2.3:7422"`:                                         "use tls://",
		`url: "ws://hub.example.com"`:                                         "use tls://",
		`urls: ["tls://a.example.com:7422", "nats://b.example.com:7422"]`:     "nats://b.example.com:7422 does not",
		`url: "tls://hub.example.com:7422"`:                                   "",
		`url: "nats://hub.example.com:7422", tls {}`:                          "",
		`url: "tls://hub.example.com:7422", tls { insecure: true }`:           "ca_file",
		`url: "nats-leaf://127.0.0.1:7422"`:                                   "",
		`urls: ["nats://127.0.0.1:7422", "nats://user:word@b.example.com:1"]`: "use tls://",
	} {
		conf := filepath.Join(t.TempDir(), "leaf.conf")
		if err := os.WriteFile(conf, []byte("jetstream { store_dir: \"/nonexistent\" }, leafnodes { remotes: [ { "+remote+" } ] }"), 0o600); err != nil {
			t.Fatal(err)
		}
		key, err := nkeys.CreateUser()
		if err != nil {
			t.Fatal(err)
		}
		_, err = readOptions(conf, key, zap.NewNop())
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", remote, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "word")):
			t.Errorf("%s: the error is %v, want %q in it", remote, err, want)
		}
	}
}

// TestLeafSpeaksNoPlainText has a false hub that does not ask for TLS: the leaf begins TLS
// nevertheless, although its configuration has no tls block.
func TestLeafSpeaksNoPlainText(t *testing.T) {
	hub, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer hub.Close()
	first := make(chan []byte, 1)
	go func() {
		conn, err := hub.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = fmt.Fprint(conn, `INFO {"server_id":"FALSE","version":"2.15.2","client_id":1,"headers":true,"max_payload":1048576,"leafnode_urls":["127.0.0.1:1"],"tls_required":false,"tls_available":false,"info_on_connect":true,"compression":"off","nonce":"abcdefgh","auth_required":true}`+"\r\n")
		b := make([]byte, 512)
		n, _ := conn.Read(b)
		first <- b[:n]
	}()
	conf := deployed(t, fabric.Leaf{})
	text, err := os.ReadFile(conf)
	if err == nil {
		text = []byte(strings.Replace(strings.Replace(string(text), "nats-leaf://127.0.0.1:1", "tls://"+hub.Addr().String(), 1), "tls {}", "", 1))
		err = os.WriteFile(conf, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	run(t, conf)
	select {
	case said := <-first:
		const handshake = 22 // of a TLS record
		if len(said) == 0 || said[0] != handshake {
			t.Errorf("the leaf says %q in plain text", said)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the leaf does not connect")
	}
}
