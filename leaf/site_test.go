package leaf

import (
	"bytes"
	"context"
	"flag"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/leaf/clock"
	"github.com/petiole-io/petiole/leaf/clock/clocktest"
	"github.com/petiole-io/petiole/leaf/forward"
	"github.com/petiole-io/petiole/leaf/hubcheck"
	"github.com/petiole-io/petiole/leaf/link"
	"github.com/petiole-io/petiole/leaf/natsd"
	"github.com/petiole-io/petiole/leaf/replicate"
	"github.com/petiole-io/petiole/leaf/store"
	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/traffic"
)

// TestMain lets three times as many tests run at a time as usual: they wait for lines, disks
// and servers more than they compute.
func TestMain(m *testing.M) {
	flag.Parse()
	if parallel := flag.Lookup("test.parallel"); parallel.Value.String() == parallel.DefValue {
		if err := parallel.Value.Set(strconv.Itoa(3 * runtime.GOMAXPROCS(0))); err != nil {
			panic(err)
		}
	}
	goleak.VerifyTestMain(m)
}

// site is a hub, a line with faults, and a leaf's server with what runs on it: a
// replicator, and a forwarder on each stream. No node API and no devices.
type site struct {
	hubServer *natstest.Hub
	hub       jetstream.JetStream
	bridge    *nats.Conn
	line      *natstest.Line
	cfg       Config
	pace      replicate.Pace
	// unsupervised is set if the supervisor does not run, and the test restarts the server.
	unsupervised bool
	// storeKey encrypts the store if it is set.
	storeKey string
	// settle is how long the subjects of the hub may take to become known; default 15 s.
	settle time.Duration
	// gather is how long records wait for others.
	gather time.Duration
	// level returns what waits because of the site's budget, nil for nothing; at the first level thin is
	// the time in which one sample of each device is sent.
	level func() traffic.Level
	thin  time.Duration
	// maxIdleChecks is the supervisor's.
	maxIdleChecks int

	// machine is what the leaf runs on.
	machine clocktest.Machine

	clock *clock.Clock
	leaf  *Leaf
	host  *natsd.Server
	nc    *nats.Conn
	js    jetstream.JetStream
	link  *link.Link
	store *store.Supervisor
	check *hubcheck.Checker
	// telemetry is the forwarder of SITE_TELEMETRY.
	telemetry *forward.Forwarder
	stop      func()
}

// newSite is a site whose leaf does not run yet.
func newSite(t testing.TB) (*site, context.Context) { return newSiteAt(t, "") }

// newSiteAt is newSite at a hub with more lines in its configuration.
func newSiteAt(t testing.TB, hubSettings string) (*site, context.Context) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	s := &site{hubServer: natstest.StartHubWith(t, hubSettings, "plant-a"), cfg: DefaultConfig()}
	s.machine.Boot(time.Now())
	s.line = natstest.NewLine(t, s.hubServer.LeafAddr())
	s.cfg.Site, s.cfg.Node, s.cfg.DataDir = "plant-a", "plant-a-1", t.TempDir()
	s.cfg.NATS.ConfigFile = natstest.LeafConf(t, "plant-a", s.line.Addr())
	s.bridge = s.hubServer.Connect(t, "bridge")
	var err error
	if s.hub, err = jetstream.New(s.bridge); err != nil {
		t.Fatal(err)
	}
	if err := streams.Ensure(ctx, s.hub, streams.HubStreams(streams.HubLimits{})); err != nil {
		t.Fatal(err)
	}
	if err := streams.Ensure(ctx, s.hub, streams.SiteStreams("plant-a", streams.SiteLimits{})); err != nil {
		t.Fatal(err)
	}
	if err := streams.EnsureConsumer(ctx, s.hub, streams.Desired, streams.SiteConsumer("plant-a")); err != nil {
		t.Fatal(err)
	}
	return s, ctx
}

// configure replaces a value in the configuration of the leaf's server, before it starts.
func (s *site) configure(t testing.TB, from, to string) {
	t.Helper()
	edit(t, s.cfg.NATS.ConfigFile, func(b []byte) []byte {
		if !bytes.Contains(b, []byte(from)) {
			t.Fatalf("the configuration has no %s", from)
		}
		return bytes.ReplaceAll(b, []byte(from), []byte(to))
	})
}

func startSite(t testing.TB) (*site, context.Context) {
	t.Helper()
	s, ctx := newSite(t)
	s.start(t, ctx)
	return s, ctx
}

// start runs the leaf's parts until stop is called or the test ends.
func (s *site) start(t testing.TB, ctx context.Context) {
	t.Helper()
	// Errors that the faults provoke are no failures of the test.
	log := zaptest.NewLogger(t, zaptest.Level(zap.InfoLevel))
	s.leaf = New(s.cfg, "test", log)
	var err error
	if s.host, err = natsd.Start(ctx, natsd.Config{
		Site: "plant-a", File: s.cfg.NATS.ConfigFile, StoreKey: s.storeKey, TelemetryBytes: s.cfg.Storage.TelemetryBytes, PingInterval: s.cfg.profile().ping, Compression: s.cfg.profile().compression, Log: log.WithOptions(zap.IncreaseLevel(zap.WarnLevel)),
	}); err != nil {
		t.Fatal(err)
	}
	if s.nc, err = s.host.Connect(); err != nil {
		t.Fatal(err)
	}
	if s.js, err = jetstream.New(s.nc); err != nil {
		t.Fatal(err)
	}
	s.store = s.leaf.newSupervisor(s.host, s.js, s.maxIdleChecks)
	if err := s.store.Open(ctx); err != nil {
		t.Fatal(err)
	}
	s.run(t, ctx, log)
}

func (s *site) run(t testing.TB, ctx context.Context, log *zap.Logger) {
	runCtx, end := context.WithCancel(ctx)
	done := make(chan error, 6)
	s.link = link.New(s.host.HubConnection, s.leaf.counts.linkChanges, log)
	s.clock = clock.Open(clock.Config{DataDir: s.cfg.DataDir, Source: s.machine.Source(), Log: log})
	s.check = hubcheck.New(hubcheck.Config{Site: "plant-a", Conn: s.nc, Link: s.link, Measured: s.clock.Measured, Imports: func(subject string) bool { return natsd.Imports(s.host, subject) }, Settle: s.settle, Log: log})
	r := replicate.New(replicate.Config{
		Site: "plant-a", JS: s.js, Link: s.link, Desired: s.store.Desired(), Pace: s.pace, MaxPayload: s.check.MaxPayload, Meter: s.leaf.counts.meter, Counters: s.leaf.counts.replicate, Log: log,
	})
	parts := []func(context.Context) error{r.Run, s.link.Run, s.check.Run}
	if !s.unsupervised {
		parts = append(parts, s.store.Run)
	}
	for _, name := range []string{streams.SiteReported, streams.SiteTelemetry} {
		f := forward.New(forward.Config{
			Site: "plant-a", Stream: name, JS: s.js, Link: s.link, Timelines: s.store.Timeline(name), Drops: s.store.Drops(),
			MaxPayload: s.check.MaxPayload, CorrectTime: s.clock.Correct, Gather: s.gather, Level: s.level, ThinInterval: s.thin, Meter: s.leaf.counts.meter, Counters: s.leaf.counts.forward, Log: log.With(zap.String("stream", name)),
		})
		if name == streams.SiteTelemetry {
			s.telemetry = f
		}
		parts = append(parts, f.Run)
	}
	for _, run := range parts {
		go func() { done <- run(runCtx) }()
	}
	stopped := false
	s.stop = func() {
		if stopped {
			return
		}
		stopped = true
		end()
		for range parts {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		s.store.Checkpoint(context.WithoutCancel(ctx))
		s.nc.Close()
		s.host.Stop()
	}
	t.Cleanup(s.stop)
}

// restart stops the leaf, changes its files, and starts it again.
func (s *site) restart(t testing.TB, ctx context.Context, between func(storeDir string)) {
	t.Helper()
	dir := s.host.StoreDir()
	s.stop()
	if between != nil {
		between(dir)
	}
	s.start(t, ctx)
}

func (s *site) up(t testing.TB) {
	t.Helper()
	polltest.Eventually(t, "link up", func() bool { up, _, _ := s.link.State(); return up })
}

func (s *site) cut(t testing.TB) {
	t.Helper()
	s.line.Cut()
	polltest.Eventually(t, "link down", func() bool { up, _, _ := s.link.State(); return !up })
}

func count(t testing.TB, ctx context.Context, js jetstream.JetStream, stream string) uint64 {
	t.Helper()
	s, err := js.Stream(ctx, stream)
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo().State.Msgs
}
