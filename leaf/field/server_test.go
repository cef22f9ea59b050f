package field

import (
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/streams"
)

// site is a leaf's server that a test may stop and start again on the same store.
type site struct {
	*server.Server
	conf, store string
	port        int
}

func startServer(t testing.TB, conf string) *site {
	t.Helper()
	s := &site{conf: conf}
	s.start(t)
	t.Cleanup(s.stop)
	return s
}

func (s *site) start(t testing.TB) {
	t.Helper()
	opts, err := server.ProcessConfigFile(s.conf)
	if err != nil {
		t.Fatal(err)
	}
	opts.NoSigs, opts.NoLog = true, true
	if s.Server, err = server.NewServer(opts); err != nil {
		t.Fatal(err)
	}
	s.store, s.port = opts.StoreDir, opts.Port
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("nats-server is not ready")
	}
}

func (s *site) stop() {
	s.Shutdown()
	s.WaitForShutdown()
}

// streams creates the site's streams over an in-process connection.
func (s *site) streams(t testing.TB, l streams.LeafLimits) jetstream.JetStream {
	t.Helper()
	js := s.connect(t, "", nats.InProcessServer(s.Server))
	if err := streams.Ensure(t.Context(), js, streams.LeafStreams("plant-a", l)); err != nil {
		t.Fatal(err)
	}
	return js
}

func (s *site) connect(t testing.TB, url string, opts ...nats.Option) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(url, append(opts, nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}
