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

	"github.com/nats-io/nats.go/jetstream"
	slavelib "github.com/simonvetter/modbus"
	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/modbus"
	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/leaf/clock"
	"github.com/petiole-io/petiole/leaf/clock/clocktest"
	"github.com/petiole-io/petiole/streams"
)

func TestMain(m *testing.M) {
	// The slave's library leaves a reader of each connection to the connection's end.
	// nats-server 2.15.2 leaves the flusher of a batch that it could not put on a full disk
	// (docs/upstream.md, 15).
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/simonvetter/modbus.(*ModbusServer).handleTCPClient"),
		goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server.(*msgBlock).flushLoop"))
}

// slave is a Modbus TCP slave of another library. It records what is written.
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

// rig is a leaf's nats-server with its streams, and a slave.
type rig struct {
	t       *testing.T
	ctx     context.Context
	js      jetstream.JetStream
	slave   *slave
	port    string
	drivers []devices.Driver // besides Modbus
	mappers devices.ReportReceiver
	machine clocktest.Machine
	// interest is Config.Interest.
	interest func(subject string) bool
}

func newRig(t *testing.T) *rig {
	t.Helper()
	s := startServer(t, natstest.LeafConf(t, "plant-a", "127.0.0.1:1"))
	return newRigWith(t, s.streams(t, streams.LeafLimits{}))
}

// newRigWith returns a rig on existing streams.
func newRigWith(t *testing.T, js jetstream.JetStream) *rig {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	r := &rig{t: t, ctx: ctx, slave: &slave{}, js: js}
	r.machine.Boot(time.Now())
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

// clock is that of the machine, of which a folder remembers something.
func (r *rig) clock(dir string) *clock.Clock {
	return clock.Open(clock.Config{DataDir: dir, Source: r.machine.Source(), Log: zaptest.NewLogger(r.t)})
}

// run runs a Field until stop is called.
func (r *rig) run() (f *Field, stop func()) {
	ctx, cancel := context.WithCancel(r.ctx)
	f = New(Config{
		Site: "plant-a", Node: "plant-a-1", JS: r.js, Clock: r.clock(r.t.TempDir()), Log: zaptest.NewLogger(r.t), MQTT: true, Mappers: r.mappers, Interest: r.interest,
		Drivers: append([]devices.Driver{modbus.New(nil)}, r.drivers...),
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
	r.deviceAt("plant-a-1", "pump", version, fmt.Sprintf(`"desired":{"value":%q}`, setpoint))
}

// deviceAt stores a device of a node. property is added to its only property, setpoint.
func (r *rig) deviceAt(node, name, version, property string) {
	r.t.Helper()
	r.put(streams.Ref{Node: node, Group: v1beta1.GroupName, Resource: "devices", Namespace: "default", Name: name}, version,
		fmt.Sprintf(`{"metadata":{"namespace":"default","name":%q},"spec":{"deviceModelRef":{"name":"pump"},"nodeName":%q,
		"protocol":{"protocolName":"modbus","configData":{"ip":"127.0.0.1","port":%s,"slaveID":1}},
		"properties":[{"name":"setpoint","collectCycle":20,"reportToCloud":true,%s}]}}`, name, node, r.port, property))
}

func (r *rig) model() {
	r.t.Helper()
	r.put(streams.Ref{Group: v1beta1.GroupName, Resource: "devicemodels", Namespace: "default", Name: "pump"}, "1",
		`{"metadata":{"namespace":"default","name":"pump"},"spec":{"protocol":"modbus","properties":[{"name":"setpoint","type":"INT",
		"accessMode":"ReadWrite","maximum":"1000","visitors":{"protocolName":"modbus","configData":{"register":"HoldingRegister","offset":3,"limit":1}}}]}}`)
}

// eventually polls for a condition. Its limit is shorter than the AckWait of consumers: a
// message that is only delivered again after that is a failure.
func (r *rig) eventually(what string, condition func() bool) {
	r.t.Helper()
	polltest.Within(r.t, 15*time.Second, what, condition)
}

// reported returns the setpoint in the newest DeviceStatus of SITE_REPORTED.
func (r *rig) reported() string {
	for _, twin := range r.status("pump").Status.Twins {
		if twin.PropertyName == "setpoint" && twin.Reported != nil {
			return twin.Reported.Value
		}
	}
	return ""
}

// status returns the newest DeviceStatus of a device in SITE_REPORTED, empty if there is none.
func (r *rig) status(device string) (status v1beta1.DeviceStatus) {
	r.t.Helper()
	s, err := r.js.Stream(r.ctx, streams.SiteReported)
	if err != nil {
		r.t.Fatal(err)
	}
	raw, err := s.GetLastMsgForSubject(r.ctx, streams.LocalReportedSubject(streams.Ref{
		Node: "plant-a-1", Group: v1beta1.GroupName, Resource: "devicestatuses", Namespace: "default", Name: device,
	}))
	if err != nil {
		return status
	}
	_, m, err := streams.Load(r.ctx, s, raw.Subject, raw.Header, raw.Data)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := json.Unmarshal(m.Object, &status); err != nil {
		r.t.Fatal(err)
	}
	return status
}

// backlog returns the number of messages that the device worker has not applied.
func (r *rig) backlog() uint64 {
	c, err := r.js.Consumer(r.ctx, streams.SiteDesired, streams.DevicesConsumer)
	if err != nil {
		return 1
	}
	i := c.CachedInfo()
	return i.NumPending + uint64(i.NumAckPending)
}

// TestDesiredReachesTheRegisterOnce writes a desired value once despite restarts and
// redeliveries, and reports the value of the register.
func TestDesiredReachesTheRegisterOnce(t *testing.T) {
	t.Parallel()
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
	r.eventually("everything applied", func() bool { return r.backlog() == 0 })
	if got, want := r.slave.written(), "[7 14]"; got != want {
		t.Errorf("written: %s, want %s", got, want)
	}
}

// TestUnreadableMessageIsQuarantinedOnce stores an unreadable message between two readable
// ones, and restarts the field, which reads everything again.
func TestUnreadableMessageIsQuarantinedOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	f, stop := r.run()
	r.model()
	const subject = "desired.plant-a.plant-a-1.devices~kubeedge~io.devices.default.unreadable"
	unreadable := func(body string) {
		if _, err := r.js.Publish(r.ctx, subject, []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	quarantined := func() uint64 {
		s, err := r.js.Stream(r.ctx, streams.SiteQuarantine)
		if err != nil {
			t.Fatal(err)
		}
		return s.CachedInfo().State.Msgs
	}
	unreadable("{")
	r.device("1", "7")
	r.eventually("reported value", func() bool { return r.reported() == "7" })
	r.eventually("everything applied", func() bool { return r.backlog() == 0 })
	stop()
	if got := quarantined(); got != 1 || f.Quarantined() != 1 {
		t.Errorf("%d messages in quarantine, %d counted; want 1", got, f.Quarantined())
	}
	for _, value := range []string{"8", "9"} {
		f, stop = r.run()
		r.device(value, value)
		r.eventually("reported value", func() bool { return r.reported() == value })
		r.eventually("everything applied", func() bool { return r.backlog() == 0 })
		stop()
	}
	if got := quarantined(); got != 1 || f.Quarantined() != 0 {
		t.Errorf("%d messages in quarantine after restarts, %d counted in the last; want 1 and 0", got, f.Quarantined())
	}
	f, stop = r.run()
	defer stop()
	unreadable("another")
	r.eventually("the other one", func() bool { return quarantined() == 2 && f.Quarantined() == 1 })
}

// TestSamplesAreNumberedWithoutGaps reads the records of one device.
func TestSamplesAreNumberedWithoutGaps(t *testing.T) {
	t.Parallel()
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
	last := int64(0)
	for want := uint64(1); want <= 15; want++ {
		m, err := c.Next(jetstream.FetchMaxWait(5 * time.Second))
		if err != nil {
			t.Fatal(err)
		}
		var batch struct {
			Sequence uint64 `json:"sequence"`
			Samples  []struct {
				Time int64 `json:"time"`
			} `json:"samples"`
		}
		if err := json.Unmarshal(m.Data(), &batch); err != nil {
			t.Fatal(err)
		}
		// On a busy machine samples that wait for the store are one batch.
		if batch.Sequence != want || len(batch.Samples) == 0 {
			t.Fatalf("batch %d has sequence %d and %d samples", want, batch.Sequence, len(batch.Samples))
		}
		for _, sample := range batch.Samples {
			if sample.Time < last {
				t.Errorf("batch %d has a sample of %d after one of %d: two readings may have one millisecond, none goes back", want, sample.Time, last)
			}
			last = sample.Time
		}
	}
}
