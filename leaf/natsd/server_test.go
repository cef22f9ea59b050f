package natsd

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
)

// dns answers the lookups of this package's tests.
var dns natstest.DNS

func TestMain(m *testing.M) {
	net.DefaultResolver = dns.Resolver()
	// docs/upstream.md, 15.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server.(*msgBlock).flushLoop"))
}

// run starts a leaf's server and returns the leaf's own connection to it.
func run(t *testing.T, conf string) (*Server, *nats.Conn) {
	t.Helper()
	s, err := Start(t.Context(), Config{Site: "plant-a", File: conf, Log: zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	nc, err := s.Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return s, nc
}

// TestMakingAStreamIsHealthy asks for the store's health while streams are made.
func TestMakingAStreamIsHealthy(t *testing.T) {
	t.Parallel()
	s, nc := run(t, natstest.LeafConf(t, "plant-a", natstest.StartHub(t, "plant-a").LeafAddr()))
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	made := make(chan error, 1)
	go func() {
		for i := range 100 {
			name := fmt.Sprintf("S%d", i)
			if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: name, Subjects: []string{name}}); err != nil {
				made <- err
				return
			}
		}
		made <- nil
	}()
	for asked := 0; ; asked++ {
		if err := s.Health(); err != nil {
			t.Fatalf("after %d questions: %v", asked, err)
		}
		select {
		case err := <-made:
			if err != nil {
				t.Fatal(err)
			}
			return
		default:
		}
	}
}

// TestUnrecoveredStreamIsUnhealthy starts on a store with a stream whose description is damaged.
func TestUnrecoveredStreamIsUnhealthy(t *testing.T) {
	t.Parallel()
	conf := natstest.LeafConf(t, "plant-a", "127.0.0.1:1")
	s, nc := run(t, conf)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	damage := func() error {
		return os.WriteFile(filepath.Join(StreamDir{server.DEFAULT_GLOBAL_ACCOUNT, "S"}.in(s.StoreDir()), server.JetStreamMetaFile), []byte("{"), 0o600)
	}
	if err := s.Restart(t.Context(), damage, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Health(); err == nil {
		t.Error("a server that did not recover a stream is healthy")
	}
}

// TestIdleUntilRestarted takes the remote out of service, so that the server is disconnected and
// does not try: it is idle, and a restart connects it again. The first connection to the new
// server is the caller's.
func TestIdleUntilRestarted(t *testing.T) {
	t.Parallel()
	conf := natstest.LeafConf(t, "plant-a", natstest.StartHub(t, "plant-a").LeafAddr())
	s, nc := run(t, conf)
	polltest.Eventually(t, "connection to the hub", func() bool { return s.HubConnection() != 0 })
	if s.Idle() {
		t.Error("a connected server is idle")
	}
	opts, err := readOptions(conf, s.key, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range opts.LeafNode.Remotes {
		r.Disabled = true
	}
	if err := s.server().ReloadOptions(opts); err != nil {
		t.Fatal(err)
	}
	polltest.Eventually(t, "no connection to the hub", func() bool { return s.HubConnection() == 0 })
	polltest.Eventually(t, "idle", s.Idle)
	calls := 0
	err = s.Restart(t.Context(), func() error {
		if s.Running() || s.StoreDir() == "" {
			t.Errorf("between stop and start: running %t, store %q", s.Running(), s.StoreDir())
		}
		return nil
	}, func(_ context.Context, first *nats.Conn) {
		calls++
		if s.Running() {
			t.Error("others can connect already")
		}
		if _, err := first.RTT(); err != nil {
			t.Errorf("the first connection: %v", err)
		}
	})
	if err != nil || calls != 1 {
		t.Errorf("restart: %v, %d calls", err, calls)
	}
	polltest.Eventually(t, "connection to the hub again", func() bool { return s.HubConnection() != 0 })
	polltest.Eventually(t, "connection to the new server", func() bool { _, err := nc.RTT(); return err == nil })
}
