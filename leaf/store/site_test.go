package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/leaf/natsd"
	"github.com/petiole-io/petiole/streams"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bucket is a bucket with device state.
const bucket = "device-state"

// site is a leaf's server and the supervisor of its store, away from the hub.
type site struct {
	conf, dataDir string
	server        *natsd.Server
	nc            *nats.Conn
	js            jetstream.JetStream
	store         *Supervisor
	stop          func()
}

// newSite is a site whose leaf does not run yet.
func newSite(t *testing.T) (*site, context.Context) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	return &site{conf: natstest.LeafConf(t, "plant-a", "127.0.0.1:1"), dataDir: t.TempDir()}, ctx
}

func startSite(t *testing.T) (*site, context.Context) {
	t.Helper()
	s, ctx := newSite(t)
	s.start(t, ctx)
	return s, ctx
}

// open starts the server, and nothing else that runs, until stop is called or the test ends.
func (s *site) open(t *testing.T, ctx context.Context) {
	t.Helper()
	// Errors that the faults provoke are no failures of the test.
	log := zaptest.NewLogger(t, zaptest.Level(zap.InfoLevel))
	var err error
	if s.server, err = natsd.Start(ctx, natsd.Config{Site: "plant-a", File: s.conf, Log: log.WithOptions(zap.IncreaseLevel(zap.WarnLevel))}); err != nil {
		t.Fatal(err)
	}
	s.stop = sync.OnceFunc(s.server.Stop)
	t.Cleanup(s.stop)
	if s.nc, err = s.server.Connect(); err != nil {
		t.Fatal(err)
	}
	stopServer, nc := s.stop, s.nc
	s.stop = sync.OnceFunc(func() { nc.Close(); stopServer() })
	t.Cleanup(s.stop)
	if s.js, err = jetstream.New(s.nc); err != nil {
		t.Fatal(err)
	}
	s.store = New(Config{
		Site: "plant-a", DataDir: s.dataDir, Server: s.server, JS: s.js, TelemetryBytes: 256 << 20, ReserveBytes: 64 << 20,
		DeviceState: DeviceState{Stream: "KV_" + bucket, Create: createState}, Counters: NewCounters(prometheus.NewRegistry()), Log: log,
	})
}

func createState(ctx context.Context, js jetstream.JetStream) error {
	_, err := js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: bucket, History: 1})
	return err
}

// start opens the store and runs the supervisor.
func (s *site) start(t *testing.T, ctx context.Context) {
	t.Helper()
	s.open(t, ctx)
	if err := s.store.Open(ctx); err != nil {
		t.Fatal(err)
	}
	running, end := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func(k *Supervisor) { done <- k.Run(running) }(s.store)
	k, stop := s.store, s.stop
	s.stop = sync.OnceFunc(func() {
		end()
		if err := <-done; err != nil {
			t.Error(err)
		}
		k.Checkpoint(context.WithoutCancel(ctx))
		stop()
	})
	t.Cleanup(s.stop)
}

// restart stops the leaf, changes its files, and starts it again.
func (s *site) restart(t *testing.T, ctx context.Context, between func(storeDir string)) {
	t.Helper()
	s.stop()
	if between != nil {
		between(s.server.StoreDir())
	}
	s.start(t, ctx)
}

// restartServer restarts the server and returns when the leaf's connection is to the new one: a
// request that the old one has taken over gets no answer.
func (s *site) restartServer(t *testing.T, ctx context.Context, between func() error) {
	t.Helper()
	s.store.Restart(ctx, between)
	polltest.Eventually(t, "connection to the new server", func() bool { _, err := s.nc.RTT(); return err == nil })
}

// twin is a leaf with a copy of the files.
func (s *site) twin(t *testing.T) *site {
	t.Helper()
	dir := t.TempDir()
	other := &site{conf: natstest.LeafConfIn(t, dir, "plant-a", "127.0.0.1:1"), dataDir: t.TempDir()}
	for to, from := range map[string]string{filepath.Join(dir, "js"): filepath.Dir(s.server.StoreDir()), other.dataDir: s.dataDir} {
		if err := os.CopyFS(to, os.DirFS(from)); err != nil {
			t.Fatal(err)
		}
	}
	return other
}

func (s *site) desired(t *testing.T, ctx context.Context) jetstream.Stream {
	t.Helper()
	d, err := s.js.Stream(ctx, streams.SiteDesired)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// putLocal publishes desired state at the site itself.
func (s *site) putLocal(t *testing.T, ctx context.Context, name string, op streams.Op, version int) {
	t.Helper()
	m := streams.Message{Ref: ref(name), Op: op, UID: "u-" + name, Version: fmt.Sprint(version), Object: fmt.Appendf(nil, `{"metadata":{"name":%q}}`, name)}
	if _, err := streams.Put(ctx, s.js, streams.DesiredSubject("plant-a", m.Ref), m); err != nil {
		t.Fatal(err)
	}
}

func ref(name string) streams.Ref {
	return streams.Ref{Resource: "configmaps", Namespace: "default", Name: name}
}

// has returns the version that SITE_DESIRED has of an object, "" for none.
func (s *site) has(t *testing.T, ctx context.Context, name string) string {
	t.Helper()
	m, err := s.desired(t, ctx).GetLastMsgForSubject(ctx, streams.DesiredSubject("plant-a", ref(name)))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	return m.Header.Get(streams.HeaderVersion)
}

// record stores a telemetry record.
func (s *site) record(t *testing.T, ctx context.Context, i int) {
	t.Helper()
	if _, err := s.js.Publish(ctx, streams.LocalTelemetrySubject("sample", "default", "pump"), fmt.Append(nil, i)); err != nil {
		t.Fatal(err)
	}
}

func count(t *testing.T, ctx context.Context, js jetstream.JetStream, stream string) uint64 {
	t.Helper()
	s, err := js.Stream(ctx, stream)
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo().State.Msgs
}

// edit changes a file of a leaf that does not run.
func edit(t *testing.T, path string, f func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) == 0 {
		t.Fatalf("%s is empty", path)
	}
	if err := os.WriteFile(path, f(b), 0o600); err != nil {
		t.Fatal(err)
	}
}
