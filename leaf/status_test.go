package leaf

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/internal/lab/fabric"
	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/leaf/credential"
	"github.com/petiole-io/petiole/streams"
)

// TestOpenServerIsReported asks for the status at a server that is not embedded.
func TestOpenServerIsReported(t *testing.T) {
	for _, withUsers := range []bool{false, true} {
		conf := natstest.LeafConf(t, "plant-a", "127.0.0.1:1")
		if withUsers {
			conf = deployedWithUsers(t)
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
		s := &status{
			js: js, degraded: func() []string { return []string{streams.DegradedDiskFull} }, refused: func() bool { return false },
			setAside: func() string { return "" }, hubProblems: func() []string { return nil }, kubelet: func() string { return "" }, skewed: func() string { return "" },
		}
		want := fmt.Sprint([]string{streams.DegradedDiskFull, streams.DegradedOpen})
		if withUsers {
			want = fmt.Sprint([]string{streams.DegradedDiskFull})
		}
		skewed := *s
		skewed.skewed = func() string { return "the clock of the gateway is 3h0m0s behind the hub's" }
		if names, details := skewed.reasons(); !slices.Contains(names, streams.DegradedClock) || !slices.Contains(details, skewed.skewed()) {
			t.Errorf("a skewed clock: the reasons are %s, %s", names, details)
		}
		names, details := s.reasons()
		if got := fmt.Sprint(names); got != want || len(details) > 0 {
			t.Errorf("users %t: the reasons are %s, want %s", withUsers, got, want)
		}
	}
}

// deployedWithUsers renders the deployed configuration with a listener and a user for the leaf,
// as for a nats-server of the gateway's own, without a hub.
func deployedWithUsers(t *testing.T) (conf string) {
	t.Helper()
	dir := t.TempDir()
	seed, conf := filepath.Join(dir, "leaf.nk"), filepath.Join(dir, "leaf.conf")
	if _, err := credential.Seed(seed); err != nil {
		t.Fatal(err)
	}
	err := fabric.RepoTemplates("..").WriteLeaf(conf, fabric.Leaf{
		Site: "plant-a", Store: filepath.Join(dir, "js"), SeedFile: seed, URL: "nats-leaf://127.0.0.1:1",
		Listen: "127.0.0.1:-1", LeafUser: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	return conf
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
