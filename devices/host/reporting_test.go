package host

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap/zaptest"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/devicestest"
	"github.com/petiole-io/petiole/devices/host/hosttest"
	"github.com/petiole-io/petiole/devices/internal/twin"
)

// set sets a setting of property a, or of the device.
func (b *bench) setting(property bool, kv map[string]any) {
	if property {
		b.device.Spec.Properties[0].Visitors = &v1beta1.VisitorConfig{ConfigData: &v1beta1.CustomizedValue{Data: kv}}
	} else {
		b.device.Spec.Protocol.ConfigData = &v1beta1.CustomizedValue{Data: kv}
	}
}

func (b *bench) sayInt(v int64) {
	now := time.Now()
	b.driver.say(devices.Batch{Reachable: true, Time: now, Readings: []devices.Reading{{Point: 0, Value: devices.Int(v), Quality: devices.Good, Time: now}}})
}

func (b *bench) statuses() int {
	b.sink.mu.Lock()
	defer b.sink.mu.Unlock()
	return len(b.sink.statuses)
}

// intervals sleeps for n status intervals. It needs the clock of synctest, which advances only
// when all goroutines are blocked: a status that was not sent by then will not be.
func (b *bench) intervals(n int) {
	b.t.Helper()
	time.Sleep(time.Duration(n) * statusInterval)
	synctest.Wait()
}

// Readings of 5,000 samples a second become at most one status for each device and
// interval, and every one of them is telemetry.
func TestFiveThousandSamplesASecond(t *testing.T) { synctest.Test(t, fiveThousandSamplesASecond) }

func fiveThousandSamplesASecond(t *testing.T) {
	const interval, deviceCount, perBatch, rounds = 250 * time.Millisecond, 5, 50, 40 // 40 rounds in 2 s: 5,000/s
	sink := &recordingSink{}
	driver := &many{}
	h, err := New(Config{Node: "n", Drivers: []devices.Driver{driver}, Sink: sink, State: &devicestest.State{}, Clock: &hosttest.Clock{}, Log: zaptest.NewLogger(t), StatusInterval: interval})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	stopped := make(chan error, 1)
	go func() { stopped <- h.Run(ctx) }()
	t.Cleanup(func() {
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
	model := &v1beta1.DeviceModel{}
	model.Namespace, model.Name = "ns", "m"
	for i := range perBatch {
		model.Spec.Properties = append(model.Spec.Properties, v1beta1.ModelProperty{Name: strconv.Itoa(i), Type: v1beta1.INT})
	}
	must(t, h.ApplyModel(ctx, model, "1"))
	for i := range deviceCount {
		d := newBenchDevice(strconv.Itoa(i), model)
		must(t, h.ApplyDevice(ctx, d, "1"))
	}
	for driver.count() < deviceCount {
		time.Sleep(time.Millisecond)
	}
	start := time.Now()
	for round := range rounds {
		at := start.Add(time.Duration(round) * 50 * time.Millisecond)
		time.Sleep(time.Until(at)) // the pace of the devices
		driver.deliver(round, perBatch)
	}
	for int(h.Stats().Samples) < deviceCount*perBatch*rounds || h.Stats().Waiting > 0 {
		time.Sleep(time.Millisecond)
	}
	took := time.Since(start)
	sink.mu.Lock()
	defer sink.mu.Unlock()
	last := map[string]time.Time{}
	count := map[string]int{}
	for i, s := range sink.statuses {
		if was, ok := last[s.Name]; ok && sink.when[i].Sub(was) < interval-5*time.Millisecond {
			t.Errorf("%s between two statuses of %s", sink.when[i].Sub(was), s.Name)
		}
		last[s.Name] = sink.when[i]
		count[s.Name]++
	}
	for name, n := range count {
		if most := int(took/interval) + 1; n > most || n < 2 {
			t.Errorf("%d statuses of %s in %s, want at most %d", n, name, took, most)
		}
	}
	t.Logf("%d samples in %s: %d statuses of %d devices", h.Stats().Samples, took.Round(time.Millisecond), len(sink.statuses), len(count))
	if len(count) != deviceCount || h.Stats().DroppedBatches != 0 {
		t.Fatal(count, h.Stats())
	}
}

// many is a driver of any number of devices, whose batches the test chooses.
type many struct {
	mu   sync.Mutex
	open []func(devices.Batch)
}

func newBenchDevice(name string, model *v1beta1.DeviceModel) *v1beta1.Device {
	d := &v1beta1.Device{}
	d.Namespace, d.Name, d.UID, d.Spec.NodeName = "ns", name, types.UID(name), "n"
	d.Spec.DeviceModelRef = ref(model.Name)
	d.Spec.Protocol.ProtocolName = "anything"
	for _, p := range model.Spec.Properties {
		d.Spec.Properties = append(d.Spec.Properties, v1beta1.DeviceProperty{Name: p.Name, ReportToCloud: true})
	}
	return d
}

func (m *many) Protocols() []string { return []string{devices.AnyProtocol} }

func (m *many) Open(devices.Definition) (devices.Session, []devices.Problem, error) {
	return m, nil, nil
}

func (m *many) Run(ctx context.Context, deliver func(devices.Batch)) error {
	m.mu.Lock()
	m.open = append(m.open, deliver)
	m.mu.Unlock()
	<-ctx.Done()
	return nil
}

func (m *many) Write(context.Context, int, string) (devices.Outcome, error) {
	return devices.Outcome{}, devices.ErrUnreachable
}

func (m *many) Command(context.Context, int, string) (devices.Outcome, error) {
	return devices.Outcome{}, devices.ErrUnreachable
}

func (m *many) count() int { m.mu.Lock(); defer m.mu.Unlock(); return len(m.open) }

func (m *many) deliver(round, points int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	for _, deliver := range m.open {
		b := devices.Batch{Reachable: true, Time: now}
		for i := range points {
			b.Readings = append(b.Readings, devices.Reading{Point: i, Value: devices.Int(int64(round)), Quality: devices.Good, Time: now})
		}
		deliver(b)
	}
}

// Within the deadband nothing is reported, beyond it the newest value is; samples are
// telemetry all the same.
func TestDeadband(t *testing.T) { synctest.Test(t, deadband) }

func deadband(t *testing.T) {
	b := newBench(t)
	b.setting(true, map[string]any{"reportDeadband": "5", "reportDeadbandPercent": 10, "reportHeartbeat": 0})
	b.apply()
	b.eventually("session", b.running)
	b.sayInt(100)
	b.eventually("first", func() bool { return b.reported("a").Value == "100" })
	n := b.statuses()
	for v := int64(91); v <= 110; v++ { // 10 % is wider than 5
		b.sayInt(v)
	}
	b.eventually("samples", func() bool { return b.sink.values() == 21 })
	b.intervals(3)
	if got := b.statuses(); got != n || b.reported("a").Value != "100" {
		t.Fatalf("%d statuses, %s", got-n, b.reported("a").Value)
	}
	b.sayInt(111)
	b.eventually("change", func() bool { return b.reported("a").Value == "111" })
}

// A value that does not change is reported again after its heartbeat, while it is read;
// one that is not read for long becomes uncertain and keeps value, time and age.
func TestHeartbeatAndAge(t *testing.T) { synctest.Test(t, heartbeatAndAge) }

func heartbeatAndAge(t *testing.T) {
	b := newBench(t)
	b.setting(true, map[string]any{"reportHeartbeat": 100, "staleAfter": "300"})
	b.apply()
	b.eventually("session", b.running)
	first := time.Now()
	b.sayInt(1)
	b.eventually("reported", func() bool { return b.reported("a").Value == "1" })
	stamp := b.reported("a").Metadata["timestamp"]
	b.eventually("reported again", func() bool { b.sayInt(1); return b.reported("a").Metadata["timestamp"] != stamp })
	if time.Since(first) < 75*time.Millisecond {
		t.Fatal("too soon")
	}
	if m := b.reported("a").Metadata; m["changedAt"] != stamp || m["quality"] != "good" || m["age"] != "" {
		t.Fatal(m)
	}
	b.eventually("uncertain", func() bool { return b.reported("a").Metadata["quality"] == "uncertain" })
	m := b.reported("a").Metadata
	if age, err := strconv.Atoi(m["age"]); err != nil || age < 300 || m["reason"] != devices.ReasonOld || b.reported("a").Value != "1" || m["since"] == "" {
		t.Fatal(m)
	}
	b.sayInt(1)
	b.eventually("good again", func() bool { return b.reported("a").Metadata["quality"] == "good" })
}

// The settings of a device are read by the host, which reports invalid ones, and not by the
// driver.
func TestStateIsHidden(t *testing.T) { synctest.Test(t, stateIsHidden) }

func stateIsHidden(t *testing.T) {
	b := newBench(t)
	b.device.Spec.StateReport = &v1beta1.DeviceStateReport{}
	b.setting(false, map[string]any{"statusInterval": 60_000, "reportDeadband": -1, "port": 5})
	b.online()
	b.sayInt(1)
	b.eventually("event about the settings", func() bool { return b.events(devices.ReasonInvalidReporting) == 1 })
	if s := b.status(); s.State != "" || s.LastOnlineTime != "" {
		t.Fatalf("%+v", s)
	}
	if c := b.driver.def.Config; len(c) != 1 {
		t.Fatalf("the driver sees %v", c)
	}
	b.intervals(3)
	n := b.statuses()
	b.sayInt(2)
	b.intervals(3)
	if got := b.statuses(); got != n {
		t.Fatalf("%d statuses within the interval of the device", got-n)
	}
	time.Sleep(time.Minute)
	synctest.Wait()
	if got := b.statuses(); got != n+1 || b.reported("a").Value != "2" {
		t.Fatalf("%d statuses after the interval of the device", got-n)
	}
}

// RepeatAfter spreads within a quarter below the shortest silence that is asked for.
func TestRepeatAfter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := devices.Definition{Device: devices.Ref{Name: rapid.String().Draw(t, "name")}, Report: devices.StateReporting{Cycle: time.Duration(rapid.Int64Range(10, 600).Draw(t, "cycle")) * time.Second}}
		shortest := d.Report.Cycle
		for range rapid.IntRange(0, 5).Draw(t, "points") {
			p := devices.Point{Report: rapid.Bool().Draw(t, "report"), Reporting: devices.Reporting{Heartbeat: time.Duration(rapid.Int64Range(0, 600).Draw(t, "heartbeat")) * time.Second}}
			if p.Report && p.Reporting.Heartbeat > 0 {
				shortest = min(shortest, p.Reporting.Heartbeat)
			}
			d.Points = append(d.Points, p)
		}
		if got := (&twin.Device{Definition: d}).RepeatAfter(); got > shortest || got < shortest*3/4 {
			t.Fatalf("%s of %s", got, shortest)
		}
	})
}
