package apply

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"

	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/streams"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// site is a leaf's JetStream, and what was applied of it.
type site struct {
	t  *testing.T
	js jetstream.JetStream

	mu      sync.Mutex
	applied map[string]int // by name
	// reject holds the errors with which objects are rejected, by name.
	reject map[string]error
}

func newSite(t *testing.T) *site {
	t.Helper()
	ns, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoLog: true, NoSigs: true})
	must(t, err)
	ns.Start()
	t.Cleanup(func() { ns.Shutdown(); ns.WaitForShutdown() })
	nc, err := nats.Connect("", nats.InProcessServer(ns))
	must(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	must(t, err)
	must(t, streams.Ensure(t.Context(), js, streams.LeafStreams("plant-a", streams.LeafLimits{})))
	return &site{t: t, js: js, applied: map[string]int{}, reject: map[string]error{}}
}

func (s *site) apply(_ context.Context, m streams.Message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.reject[m.Name]; err != nil {
		return err
	}
	s.applied[m.Name]++
	return nil
}

func (s *site) setReject(name string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reject[name] = err
}

func (s *site) count(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.applied[name]
}

// put stores an object and returns its sequence.
func (s *site) put(name string) uint64 {
	s.t.Helper()
	m := streams.Message{Ref: streams.Ref{Resource: "configmaps", Namespace: "default", Name: name}, Op: streams.OpPut, Object: []byte(`{"metadata":{"name":"` + name + `"}}`)}
	seq, err := streams.Put(s.t.Context(), s.js, streams.DesiredSubject("plant-a", m.Ref), m)
	must(s.t, err)
	return seq
}

// run runs an Applier until stop is called.
func (s *site) run() (a *Applier, stop func()) {
	a = New(Config{
		JS: s.js, Consumer: streams.LocalConsumer("test", "a test", 256), Apply: s.apply,
		RetryDelay: 10 * time.Millisecond, Log: zaptest.NewLogger(s.t),
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		must(s.t, <-done)
	})
	s.t.Cleanup(stop)
	return a, stop
}

// quarantined returns the number of messages in SITE_QUARANTINE.
func (s *site) quarantined() uint64 {
	s.t.Helper()
	q, err := s.js.Stream(s.t.Context(), streams.SiteQuarantine)
	must(s.t, err)
	return q.CachedInfo().State.Msgs
}

// floor returns the acknowledgement floor.
func (s *site) floor() uint64 {
	c, err := s.js.Consumer(s.t.Context(), streams.SiteDesired, "test")
	if err != nil {
		return 0
	}
	return c.CachedInfo().AckFloor.Stream
}

func appliedBy(a *Applier) uint64 {
	seq, _ := a.Position()
	return seq
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestRejectedMessageIsDeliveredAgain rejects one message for a while: those behind it are
// applied, the position stays before it, and it is acknowledged once it was applied.
func TestRejectedMessageIsDeliveredAgain(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	first := s.put("first")
	a, _ := s.run()
	polltest.Eventually(t, "the first", func() bool { return appliedBy(a) == first })
	s.setReject("slow", errors.New("not now"))
	slow := s.put("slow")
	last := s.put("last")
	polltest.Eventually(t, "the last", func() bool { return s.count("last") > 0 })
	if n := appliedBy(a); n != slow-1 || s.floor() >= slow {
		t.Errorf("applied up to %d, acknowledged up to %d, while %d is not applied", n, s.floor(), slow)
	}
	s.setReject("slow", nil)
	polltest.Eventually(t, "the slow one", func() bool { return s.count("slow") == 1 && appliedBy(a) == last && s.floor() == last })
}

// TestUnreadableBecauseOfTheVersion acknowledges a message that the next process cannot
// read: it is quarantined at the start, once, and holds nothing up.
func TestUnreadableBecauseOfTheVersion(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.put("old")
	last := s.put("last")
	a, stop := s.run()
	polltest.Eventually(t, "all acknowledged", func() bool { return appliedBy(a) == last && s.floor() == last })
	stop()
	s.setReject("old", streams.ErrUndecodable)
	for i, quarantined := range []uint64{1, 0} {
		a, stop = s.run()
		polltest.Eventually(t, "all applied again", func() bool { return s.count("last") == i+2 })
		<-a.Loaded()
		if a.Unreadable() != 1 || a.Quarantined() != quarantined || s.quarantined() != 1 {
			t.Errorf("start %d: %d unreadable, %d quarantined, %d in the stream", i, a.Unreadable(), a.Quarantined(), s.quarantined())
		}
		stop()
	}
}
