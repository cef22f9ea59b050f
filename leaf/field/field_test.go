package field

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	slavelib "github.com/simonvetter/modbus"
	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/modbus"
	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/streams"
)

func TestMain(m *testing.M) {
	// The slave's library leaves a reader of each connection to the connection's end.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/simonvetter/modbus.(*ModbusServer).handleTCPClient"))
}

// slave is a Modbus TCP slave that is not our code; it remembers what was written.
type slave struct {
	mu     sync.Mutex
	regs   [16]uint16
	writes []uint16
}

func (s *slave) HandleCoils(*slavelib.CoilsRequest) ([]bool, error) {
	return nil, slavelib.ErrIllegalFunction
}

func (s *slave) HandleDiscreteInputs(*slavelib.DiscreteInputsRequest) ([]bool, error) {
	return nil, slavelib.ErrIllegalFunction
}

func (s *slave) HandleInputRegisters(*slavelib.InputRegistersRequest) ([]uint16, error) {
	return nil, slavelib.ErrIllegalFunction
}

func (s *slave) HandleHoldingRegisters(r *slavelib.HoldingRegistersRequest) ([]uint16, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if int(r.Addr)+int(r.Quantity) > len(s.regs) {
		return nil, slavelib.ErrIllegalDataAddress
	}
	if r.IsWrite {
		copy(s.regs[r.Addr:], r.Args)
		s.writes = append(s.writes, r.Args...)
	}
	return append([]uint16(nil), s.regs[r.Addr:r.Addr+r.Quantity]...), nil
}

func (s *slave) written() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Sprint(s.writes)
}

// rig is a leaf's server with its streams, and a slave.
type rig struct {
	t     *testing.T
	ctx   context.Context
	js    jetstream.JetStream
	slave *slave
	port  string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	opts, err := server.ProcessConfigFile(natstest.LeafConf(t, "plant-a", "127.0.0.1:1"))
	if err != nil {
		t.Fatal(err)
	}
	opts.NoSigs, opts.NoLog = true, true
	s, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("nats-server is not ready")
	}
	nc, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	r := &rig{t: t, ctx: ctx, slave: &slave{}}
	if r.js, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	if err := streams.Ensure(ctx, r.js, streams.LeafStreams("plant-a", streams.LeafLimits{})); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	modbusServer, err := slavelib.NewServer(&slavelib.ServerConfiguration{URL: "tcp://" + addr}, r.slave)
	if err != nil {
		t.Fatal(err)
	}
	if err := modbusServer.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := modbusServer.Stop(); err != nil {
			t.Error(err)
		}
	})
	_, r.port, _ = strings.Cut(addr, ":")
	return r
}

// run operates the field until the returned function is called.
func (r *rig) run() (f *Field, stop func()) {
	ctx, cancel := context.WithCancel(r.ctx)
	f = New(Config{
		Site: "plant-a", Node: "plant-a-1", JS: r.js, Log: zaptest.NewLogger(r.t),
		Drivers: []devices.Driver{modbus.New(nil)},
	})
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	return f, sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Error(err)
		}
	})
}

func (r *rig) put(ref streams.Ref, version, object string) {
	r.t.Helper()
	m := streams.Message{Ref: ref, Op: streams.OpPut, Version: version, Object: []byte(object)}
	if _, err := streams.Put(r.ctx, r.js, streams.DesiredSubject("plant-a", ref), m); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) device(version, setpoint string) {
	r.t.Helper()
	r.put(streams.Ref{Node: "plant-a-1", Group: v1beta1.GroupName, Resource: "devices", Namespace: "default", Name: "pump"}, version,
		fmt.Sprintf(`{"metadata":{"namespace":"default","name":"pump"},"spec":{"deviceModelRef":{"name":"pump"},"nodeName":"plant-a-1",
		"protocol":{"protocolName":"modbus","configData":{"ip":"127.0.0.1","port":%s,"slaveID":1}},
		"properties":[{"name":"setpoint","collectCycle":20,"reportToCloud":true,"desired":{"value":%q}}]}}`, r.port, setpoint))
}

func (r *rig) model() {
	r.t.Helper()
	r.put(streams.Ref{Group: v1beta1.GroupName, Resource: "devicemodels", Namespace: "default", Name: "pump"}, "1",
		`{"metadata":{"namespace":"default","name":"pump"},"spec":{"protocol":"modbus","properties":[{"name":"setpoint","type":"INT",
		"accessMode":"ReadWrite","visitors":{"protocolName":"modbus","configData":{"register":"HoldingRegister","offset":3,"limit":1}}}]}}`)
}

func (r *rig) eventually(what string, cond func() bool) {
	r.t.Helper()
	for start := time.Now(); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Since(start) > 15*time.Second {
			r.t.Fatalf("%s: not within 15 s", what)
		}
	}
}

// reported is the setpoint in the newest DeviceStatus of SITE_REPORTED.
func (r *rig) reported() string {
	s, err := r.js.Stream(r.ctx, streams.SiteReported)
	if err != nil {
		r.t.Fatal(err)
	}
	raw, err := s.GetLastMsgForSubject(r.ctx, streams.LocalReportedSubject(streams.Ref{
		Node: "plant-a-1", Group: v1beta1.GroupName, Resource: "devicestatuses", Namespace: "default", Name: "pump"}))
	if err != nil {
		return ""
	}
	_, m, err := streams.Load(r.ctx, s, raw.Subject, raw.Header, raw.Data)
	if err != nil {
		r.t.Fatal(err)
	}
	var status v1beta1.DeviceStatus
	if err := json.Unmarshal(m.Object, &status); err != nil {
		r.t.Fatal(err)
	}
	for _, twin := range status.Status.Twins {
		if twin.PropertyName == "setpoint" && twin.Reported != nil {
			return twin.Reported.Value
		}
	}
	return ""
}

// backlog is how many messages the device worker has not taken over.
func (r *rig) backlog() uint64 {
	c, err := r.js.Consumer(r.ctx, streams.SiteDesired, streams.DevicesConsumer)
	if err != nil {
		return 1
	}
	i := c.CachedInfo()
	return i.NumPending + uint64(i.NumAckPending)
}

// TestDesiredReachesTheRegisterOnce writes a desired value once, whatever is restarted
// or delivered again, and reports what the register holds.
func TestDesiredReachesTheRegisterOnce(t *testing.T) {
	r := newRig(t)
	r.model()
	r.device("1", "7")
	_, stop := r.run()
	r.eventually("reported value", func() bool { return r.reported() == "7" })
	stop()
	r.device("2", "8") // five times while the worker is away
	for i := range 5 {
		r.device(fmt.Sprint(3+i), fmt.Sprint(10+i))
	}
	_, stop = r.run()
	defer stop()
	r.eventually("newest reported value", func() bool { return r.reported() == "14" })
	r.eventually("everything taken over", func() bool { return r.backlog() == 0 })
	if got, want := r.slave.written(), "[7 14]"; got != want {
		t.Errorf("written: %s, want %s", got, want)
	}
}

// TestPoisonIsSetAside puts a message that cannot be read between two that can.
func TestPoisonIsSetAside(t *testing.T) {
	r := newRig(t)
	f, stop := r.run()
	defer stop()
	r.model()
	if _, err := r.js.Publish(r.ctx, "desired.plant-a.plant-a-1.devices~kubeedge~io.devices.default.poison", []byte("{")); err != nil {
		t.Fatal(err)
	}
	r.device("1", "7")
	r.eventually("reported value", func() bool { return r.reported() == "7" })
	r.eventually("everything taken over", func() bool { return r.backlog() == 0 })
	s, err := r.js.Stream(r.ctx, streams.SiteQuarantine)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.CachedInfo().State.Msgs; got != f.Quarantined() || got == 0 {
		t.Errorf("%d messages in quarantine, %d counted; want the same, at least one", got, f.Quarantined())
	}
}

// TestSamplesAreNumberedWithoutGaps reads what one device stored.
func TestSamplesAreNumberedWithoutGaps(t *testing.T) {
	r := newRig(t)
	r.model()
	r.device("1", "7")
	_, stop := r.run()
	stream, err := r.js.Stream(r.ctx, streams.SiteTelemetry)
	if err != nil {
		t.Fatal(err)
	}
	r.eventually("twenty batches", func() bool {
		info, err := stream.Info(r.ctx)
		return err == nil && info.State.Msgs >= 20
	})
	stop()
	c, err := r.js.OrderedConsumer(r.ctx, streams.SiteTelemetry, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{streams.LocalTelemetrySubject(kindSample, "default", "pump")},
	})
	if err != nil {
		t.Fatal(err)
	}
	for want := uint64(1); want <= 15; want++ {
		m, err := c.Next(jetstream.FetchMaxWait(5 * time.Second))
		if err != nil {
			t.Fatal(err)
		}
		var batch struct {
			Sequence uint64            `json:"sequence"`
			Samples  []json.RawMessage `json:"samples"`
		}
		if err := json.Unmarshal(m.Data(), &batch); err != nil {
			t.Fatal(err)
		}
		if batch.Sequence != want || len(batch.Samples) != 1 {
			t.Fatalf("batch %d has sequence %d and %d samples", want, batch.Sequence, len(batch.Samples))
		}
	}
}
