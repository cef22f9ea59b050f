package leaf

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/petiole-io/petiole/internal/lab/fabric"
	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
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
	if err := fabric.RepoTemplates("..").WriteLeaf(conf, l); err != nil {
		t.Fatal(err)
	}
	return conf
}

// runHost starts a leaf's server and returns the leaf's own connection to it.
func runHost(t *testing.T, conf string) (*embeddedServer, *nats.Conn) {
	t.Helper()
	log := zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel))
	h, err := startServer(t.Context(), conf, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.stop)
	nc, err := connect(NATSConfig{}, h, "plant-a", log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return h, nc
}

// TestNothingListensUnasked starts the deployed configuration without a listener: the leaf
// works in process, and no address answers.
func TestNothingListensUnasked(t *testing.T) {
	h, nc := runHost(t, deployed(t, fabric.Leaf{}))
	if addr := h.server().Addr(); addr != nil {
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
			h, nc := runHost(t, conf)
			if _, err := nc.Request("$JS.API.INFO", nil, 5*time.Second); err != nil {
				t.Errorf("the leaf itself: %v", err)
			}
			nkey, err := h.key.PublicKey()
			if err != nil {
				t.Fatal(err)
			}
			addr := h.server().Addr()
			if addr == nil {
				t.Fatal("no listener")
			}
			for _, opt := range []nats.Option{nats.Name("nobody"), nats.UserInfo("gateway", ""), nats.Nkey(nkey, h.key.Sign)} {
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
		"token":                  {`authorization { token: b }`, "authorization.users"},
	} {
		t.Run(name, func(t *testing.T) {
			conf := natstest.LeafConf(t, "plant-a", "127.0.0.1:1")
			edit(t, conf, func(b []byte) []byte { return append(b, c.conf...) })
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			h, err := startServer(ctx, conf, zap.NewNop())
			if err == nil {
				h.stop()
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
	h, nc := runHost(t, old)
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
	h.stop()

	conf := deployed(t, fabric.Leaf{})
	if err := os.Rename(filepath.Join(filepath.Dir(old), "js"), filepath.Join(filepath.Dir(conf), "js")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		h, nc = runHost(t, conf)
		if js, err = jetstream.New(nc); err != nil {
			t.Fatal(err)
		}
		s, err := js.Stream(t.Context(), streams.SiteTelemetry)
		if err != nil {
			t.Fatalf("what waits for the link is forgotten: %v", err)
		}
		if m, err := s.GetLastMsgForSubject(t.Context(), subject); err != nil || string(m.Data) != "waits" {
			t.Errorf("the record is %v: %v", m, err)
		}
		nc.Close()
		h.stop()
	}
}

// TestOpenServerIsReported asks for the status at a server that is not embedded.
func TestOpenServerIsReported(t *testing.T) {
	for _, withUsers := range []bool{false, true} {
		conf := natstest.LeafConf(t, "plant-a", "127.0.0.1:1")
		if withUsers {
			conf = deployed(t, fabric.Leaf{Listen: "127.0.0.1:-1", LeafUser: true})
		}
		url := stockServer(t, conf)
		cfg := NATSConfig{URL: url}
		if withUsers {
			cfg.User, cfg.PasswordFile = fabric.UserLeaf, filepath.Join(fabric.UsersDir(conf), fabric.UserLeaf+".conf")
		}
		nc, err := connect(cfg, nil, "plant-a", zap.NewNop())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		polltest.Eventually(t, "connection", nc.IsConnected)
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		s := &status{js: js, degraded: &degraded{}}
		s.degraded.set(streams.DegradedDiskFull, true)
		want := fmt.Sprint([]string{streams.DegradedDiskFull, streams.DegradedOpen})
		if withUsers {
			want = fmt.Sprint([]string{streams.DegradedDiskFull})
		}
		if got := fmt.Sprint(s.reasons()); got != want {
			t.Errorf("users %t: the reasons are %s, want %s", withUsers, got, want)
		}
	}
}

// stockServer runs a nats-server of the gateway's own from the configuration, and returns
// its URL.
func stockServer(t *testing.T, conf string) string {
	t.Helper()
	opts, err := server.ProcessConfigFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	opts.NoSigs, opts.NoLog = true, true
	s, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server is not ready")
	}
	return s.ClientURL()
}
