package dmi

import (
	"context"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/devicestest"
	"github.com/petiole-io/petiole/devices/host"
	"github.com/petiole-io/petiole/devices/host/hosttest"
	"github.com/petiole-io/petiole/internal/polltest"
)

const node = "node-1"

// rig is a leaf's device host with a Server, without the leaf.
type rig struct {
	t      *testing.T
	dir    string
	tune   func(*timing)
	state  *devicestest.State
	sink   *sink
	clock  skewedClock
	server *Server
	host   *host.Host
	stop   func()
}

// skewedClock is a right clock by which it is later than by the wall clock, or one that knows no time.
type skewedClock struct {
	hosttest.Clock
	ahead   atomic.Int64
	unknown atomic.Bool
}

func (c *skewedClock) Until(t time.Time) (time.Duration, bool) {
	if c.unknown.Load() {
		return 0, false
	}
	return time.Until(t) - time.Duration(c.ahead.Load()), true
}

// fast shortens delays. Timeouts that distinguish an unreachable mapper or device from a slow
// one stay as they are: the machine may be busy.
func fast(x *timing) {
	x.reprobe, x.retry, x.retryMax, x.settle, x.clock = 20*time.Millisecond, 20*time.Millisecond, 200*time.Millisecond, 50*time.Millisecond, 20*time.Millisecond
}

func newPlant(t *testing.T, tune func(*timing)) *rig {
	t.Helper()
	p := &rig{t: t, dir: t.TempDir(), tune: tune, state: &devicestest.State{}, sink: &sink{}}
	p.start()
	t.Cleanup(func() { p.stop() })
	return p
}

func (p *rig) socket() string { return filepath.Join(p.dir, "dmi", "dmi.sock") }

// start starts server and host as after a start of the leaf.
func (p *rig) start() {
	p.t.Helper()
	log := zaptest.NewLogger(p.t)
	p.server = New(Config{Socket: p.socket(), StateFile: filepath.Join(p.dir, "mappers.json"), Until: p.clock.Until, Log: log.Named("dmi")})
	fast(&p.server.timing)
	if p.tune != nil {
		p.tune(&p.server.timing)
	}
	host, err := host.New(host.Config{
		Node: node, Drivers: []devices.Driver{p.server}, Sink: p.sink, State: p.state, Clock: &p.clock, Log: log.Named("devices"), StatusInterval: time.Millisecond,
	})
	if err != nil {
		p.t.Fatal(err)
	}
	p.host = host
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := p.server.Run(ctx); err != nil {
			p.t.Error("run server:", err)
		}
	})
	wg.Go(func() {
		if err := host.Run(ctx); err != nil {
			p.t.Error("run host:", err)
		}
	})
	p.stop = func() { cancel(); wg.Wait() }
	select {
	case <-p.server.loaded:
	case <-time.After(15 * time.Second):
		p.t.Fatal("server does not start")
	}
}

func (p *rig) restart() { p.stop(); p.start() }

func (p *rig) apply(objects ...any) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, o := range objects {
		var err error
		switch x := o.(type) {
		case *v1beta1.Device:
			err = p.host.ApplyDevice(ctx, x, x.ResourceVersion)
		case *v1beta1.DeviceModel:
			err = p.host.ApplyModel(ctx, x, x.ResourceVersion)
		}
		if err != nil {
			p.t.Fatal(err)
		}
	}
}

func (p *rig) delete(name string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := p.host.DeleteDevice(ctx, "default", name, ""); err != nil {
		p.t.Fatal(err)
	}
}

// await waits until the newest status of a device fulfils a condition.
func (p *rig) await(what, device string, ok func(*v1beta1.DeviceStatus) bool) {
	p.t.Helper()
	polltest.Eventually(p.t, what, func() bool { s := p.sink.status(device); return s != nil && ok(s) })
}

func online(s *v1beta1.DeviceStatus) bool { return s.Status.State == v1beta1.StateOnline }

func offline(reason string) func(*v1beta1.DeviceStatus) bool {
	return func(s *v1beta1.DeviceStatus) bool {
		return s.Status.State == v1beta1.StateOffline && s.Status.Extensions.Data["reason"] == reason
	}
}

func reported(property, value string) func(*v1beta1.DeviceStatus) bool {
	return func(s *v1beta1.DeviceStatus) bool {
		for _, t := range s.Status.Twins {
			if t.PropertyName == property && t.Reported != nil {
				return t.Reported.Value == value && t.Reported.Metadata["quality"] == string(devices.Good)
			}
		}
		return false
	}
}

func quality(property string, q devices.Quality, reason string) func(*v1beta1.DeviceStatus) bool {
	return func(s *v1beta1.DeviceStatus) bool {
		for _, t := range s.Status.Twins {
			if t.PropertyName == property && t.Reported != nil {
				return t.Reported.Metadata["quality"] == string(q) && t.Reported.Metadata["reason"] == reason
			}
		}
		return false
	}
}

func acked(property string, ack devices.Ack, reason string) func(*v1beta1.DeviceStatus) bool {
	return func(s *v1beta1.DeviceStatus) bool {
		for _, t := range s.Status.Twins {
			if t.PropertyName == property && t.ObservedDesired != nil {
				return t.ObservedDesired.Metadata["ack"] == string(ack) && t.ObservedDesired.Metadata["reason"] == reason
			}
		}
		return false
	}
}

// sink records what devices report.
type sink struct {
	mu       sync.Mutex
	statuses map[string]*v1beta1.DeviceStatus
	samples  int
	audits   []devices.Audit
	block    chan struct{} // samples wait for it
}

func (s *sink) Status(_ context.Context, d devices.Ref, status *v1beta1.DeviceStatus) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.statuses == nil {
		s.statuses = map[string]*v1beta1.DeviceStatus{}
	}
	s.statuses[d.Name] = status
	return nil
}

func (s *sink) Samples(ctx context.Context, x *devices.Samples) error {
	s.mu.Lock()
	block := s.block
	s.mu.Unlock()
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.samples += len(x.Samples)
	return nil
}

func (s *sink) Audit(_ context.Context, a *devices.Audit) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.audits = append(s.audits, *a)
	return nil
}

func (s *sink) Event(context.Context, *devices.Event) error { return nil }

func (s *sink) status(device string) *v1beta1.DeviceStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.statuses[device]
}

func (s *sink) sampled() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.samples
}

func (s *sink) lastAudit() devices.Audit {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.audits) == 0 {
		return devices.Audit{}
	}
	return s.audits[len(s.audits)-1]
}
