package devices

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// fake is a driver of devices that are maps.
type fake struct {
	mu      sync.Mutex
	open    int
	running int
	values  map[string]string
	writes  []string
	away    bool
	deliver func(Batch)
	def     Definition
	entered chan struct{} // a write has begun
	gate    chan struct{} // and may go on
}

func (f *fake) Protocols() []string { return []string{"Fake"} }

func (f *fake) Open(def Definition) (Session, []Problem, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open++
	f.def = def
	return f, nil, nil
}

func (f *fake) Run(ctx context.Context, deliver func(Batch)) error {
	f.mu.Lock()
	f.running++
	f.deliver = deliver
	f.mu.Unlock()
	<-ctx.Done()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.running--
	return nil
}

func (f *fake) Write(ctx context.Context, i int, value string) (Outcome, error) {
	if f.entered != nil {
		f.entered <- struct{}{}
		select {
		case <-f.gate:
		case <-ctx.Done():
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.def.Points[i].Name
	if f.away {
		return Outcome{}, ErrUnreachable
	}
	o := Outcome{Before: f.values[p], After: value, Written: f.values[p] != value}
	if o.Written {
		f.writes = append(f.writes, p+"="+value)
		f.values[p] = value
	}
	return o, nil
}

func (f *fake) set(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
}

func (f *fake) written() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.writes, " ")
}

// say delivers a batch as if it had been read.
func (f *fake) say(b Batch) {
	f.mu.Lock()
	d := f.deliver
	f.mu.Unlock()
	d(b)
}

// ear is a sink that remembers, and fails when told.
type ear struct {
	mu       sync.Mutex
	fail     error
	statuses []*v1beta1.DeviceStatus
	when     []time.Time
	samples  []*Samples
	audits   []*Audit
	events   []*Event
}

func (e *ear) take(do func()) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.fail == nil {
		do()
	}
	return e.fail
}

func (e *ear) Status(_ context.Context, _ Ref, s *v1beta1.DeviceStatus) error {
	return e.take(func() { e.statuses = append(e.statuses, s); e.when = append(e.when, time.Now()) })
}
func (e *ear) Samples(_ context.Context, s *Samples) error {
	return e.take(func() { e.samples = append(e.samples, s) })
}
func (e *ear) Audit(_ context.Context, a *Audit) error {
	return e.take(func() { e.audits = append(e.audits, a) })
}
func (e *ear) Event(_ context.Context, x *Event) error {
	return e.take(func() { e.events = append(e.events, x) })
}

func (e *ear) ack(property string) (ack Ack) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.statuses) > 0 {
		for _, t := range e.statuses[len(e.statuses)-1].Status.Twins {
			if t.PropertyName == property && t.ObservedDesired != nil {
				ack = Ack(t.ObservedDesired.Metadata["ack"])
			}
		}
	}
	return ack
}

// memoryState is a State that fails when told.
type memoryState struct {
	mu   sync.Mutex
	m    map[string][]byte
	fail error
}

func (s *memoryState) Load(_ context.Context, k string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.m[k], s.fail
}

func (s *memoryState) Save(_ context.Context, k string, v []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail == nil {
		s.m[k] = v
	}
	return s.fail
}

func (s *memoryState) Delete(_ context.Context, k string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.m, k)
	return s.fail
}

func (s *memoryState) setFail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = err
}

type bench struct {
	t      *testing.T
	host   *Host
	driver *fake
	ear    *ear
	state  *memoryState
	device *v1beta1.Device
	model  *v1beta1.DeviceModel
	rev    int
	stop   func()
}

func newBench(t *testing.T) *bench {
	b := &bench{t: t, driver: &fake{values: map[string]string{}}, ear: &ear{}, state: &memoryState{m: map[string][]byte{}}}
	b.device, b.model = parse(t, `
metadata: {namespace: ns, name: d, uid: u}
spec:
  deviceModelRef: {name: m}
  nodeName: "n"
  protocol: {protocolName: fake}
  properties: [{name: a, reportToCloud: true}, {name: b, reportToCloud: true}, {name: quiet}]
`, `
metadata: {namespace: ns, name: m}
spec:
  properties: [{name: a, type: INT, accessMode: ReadWrite}, {name: b, type: INT, accessMode: ReadWrite}, {name: quiet, type: INT}]
`)
	b.start()
	return b
}

func (b *bench) start() {
	b.t.Helper()
	h, err := New(Config{Node: "n", Drivers: []Driver{b.driver}, Sink: b.ear, State: b.state, Log: zaptest.NewLogger(b.t), StatusInterval: 20 * time.Millisecond})
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := h.Run(ctx); err != nil {
			b.t.Error(err)
		}
	}()
	b.host, b.stop = h, func() { cancel(); <-done }
	b.t.Cleanup(b.stop)
}

func (b *bench) apply() {
	b.t.Helper()
	b.rev++
	if err := b.host.ApplyModel(context.Background(), b.model, "1"); err != nil {
		b.t.Fatal(err)
	}
	if err := b.host.ApplyDevice(context.Background(), b.device.DeepCopy(), strconv.Itoa(b.rev)); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) desire(value string) {
	b.t.Helper()
	b.device.Spec.Properties[0].Desired = &v1beta1.TwinProperty{Value: value}
	b.apply()
}

func (b *bench) eventually(what string, ok func() bool) {
	b.t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			b.t.Fatal("not in time: " + what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (b *bench) observed(property string) (value string) {
	b.ear.mu.Lock()
	defer b.ear.mu.Unlock()
	if len(b.ear.statuses) > 0 {
		for _, t := range b.ear.statuses[len(b.ear.statuses)-1].Status.Twins {
			if t.PropertyName == property && t.ObservedDesired != nil {
				value = t.ObservedDesired.Value
			}
		}
	}
	return value
}

func (b *bench) running() bool {
	b.driver.mu.Lock()
	defer b.driver.mu.Unlock()
	return b.driver.running == 1
}

func TestNewNeedsSinkAndState(t *testing.T) {
	if _, err := New(Config{Drivers: []Driver{&fake{}, &fake{}}}); err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Fatal(err)
	}
}

// Nothing is written before it is recorded that it may be: while the state cannot be
// saved the value waits.
func TestNothingIsWrittenUnrecorded(t *testing.T) {
	b := newBench(t)
	b.apply()
	b.eventually("session", b.running)
	b.state.setFail(errors.New("disk full"))
	b.desire("1")
	b.eventually("pending", func() bool {
		b.driver.say(Batch{Reachable: true, Time: time.Now()})
		return b.ear.ack("a") == Pending
	})
	if b.driver.written() != "" {
		t.Fatal(b.driver.written())
	}
	b.state.setFail(nil)
	b.eventually("applied", func() bool { return b.ear.ack("a") == Applied })
}

// Killed between write and record, the host finds the value there and does not write
// again.
func TestCrashAfterWriteWritesOnce(t *testing.T) {
	b := newBench(t)
	b.driver.entered, b.driver.gate = make(chan struct{}), make(chan struct{})
	b.desire("1")
	<-b.driver.entered // the intent is recorded now
	b.state.mu.Lock()
	left := string(b.state.m["ns/d"])
	b.state.mu.Unlock()
	if !strings.Contains(left, `"pending"`) {
		t.Fatal(left)
	}
	close(b.driver.gate)
	b.driver.mu.Lock()
	b.driver.entered = nil
	b.driver.mu.Unlock()
	b.eventually("written", func() bool { return b.driver.written() == "a=1" })
	b.stop()
	b.state.m["ns/d"] = []byte(left) // as a kill would have left it
	b.start()
	b.apply()
	b.eventually("session", b.running)
	b.driver.say(Batch{Reachable: true, Time: time.Now()})
	b.eventually("applied", func() bool { return b.ear.ack("a") == Applied })
	if b.driver.written() != "a=1" {
		t.Fatal(b.driver.written())
	}
}

// Of values that come while one is being written only the newest is written after it;
// the one under way is told as superseded.
func TestNewestWins(t *testing.T) {
	b := newBench(t)
	b.driver.entered, b.driver.gate = make(chan struct{}), make(chan struct{})
	b.desire("1")
	<-b.driver.entered
	for _, v := range []string{"2", "3", "4"} {
		b.desire(v)
	}
	b.eventually("taken over", func() bool { b.driver.say(Batch{Reachable: true, Time: time.Now()}); return b.observed("a") == "4" })
	b.driver.gate <- struct{}{}
	<-b.driver.entered
	b.driver.gate <- struct{}{}
	b.eventually("written", func() bool { return b.driver.written() == "a=1 a=4" })
	b.eventually("audit", func() bool {
		b.ear.mu.Lock()
		defer b.ear.mu.Unlock()
		n := map[Ack]int{}
		for _, a := range b.ear.audits {
			n[a.Ack]++
		}
		return n[Superseded] >= 1 && n[Applied] == 1 && b.ear.audits[len(b.ear.audits)-2].Written
	})
}

// Only what reads differently restarts a session: not labels, not desired values, not
// the status.
func TestSessionsSurviveIrrelevantChanges(t *testing.T) {
	b := newBench(t)
	b.apply()
	b.eventually("session", b.running)
	b.device.Labels = map[string]string{"x": "y"}
	b.device.Status = &v1beta1.CustomizedValue{Data: map[string]any{"state": "online"}}
	b.desire("1")
	b.desire("2")
	b.eventually("written", func() bool { return strings.HasSuffix(b.driver.written(), "a=2") })
	if b.driver.open != 1 {
		t.Fatalf("opened %d times", b.driver.open)
	}
	b.device.Spec.Properties[1].CollectCycle = 5
	b.apply()
	b.eventually("reopened", func() bool {
		b.driver.mu.Lock()
		defer b.driver.mu.Unlock()
		return b.driver.open == 2 && b.driver.running == 1
	})
}

// Statuses are throttled and the last one is the newest; samples are not throttled.
// What is not reported to the cloud is sampled all the same.
func TestStatusIsThrottledAndSamplesAreNot(t *testing.T) {
	b := newBench(t)
	b.apply()
	b.eventually("session", b.running)
	const n = 300
	for i := range n {
		now := time.Now()
		b.driver.say(Batch{Reachable: true, Time: now, Readings: []Reading{{0, Int(int64(i)), Good, "", now}, {2, Int(5), Good, "", now}}})
	}
	b.eventually("newest", func() bool {
		b.ear.mu.Lock()
		defer b.ear.mu.Unlock()
		l := len(b.ear.statuses)
		return l > 0 && b.ear.statuses[l-1].Status.Twins[0].Reported.Value == strconv.Itoa(n-1)
	})
	b.eventually("samples", func() bool { b.ear.mu.Lock(); defer b.ear.mu.Unlock(); return len(b.ear.samples) == n })
	b.ear.mu.Lock()
	defer b.ear.mu.Unlock()
	for i := 1; i < len(b.ear.when); i++ {
		if d := b.ear.when[i].Sub(b.ear.when[i-1]); d < 19*time.Millisecond {
			t.Fatalf("%s between statuses", d)
		}
	}
	if len(b.ear.statuses[len(b.ear.statuses)-1].Status.Twins) != 1 || len(b.ear.samples[0].Samples) != 2 {
		t.Fatal("reportToCloud")
	}
}

// A sink that takes nothing for a while loses nothing that fits, and later the newest
// status.
func TestSinkAway(t *testing.T) {
	b := newBench(t)
	b.apply()
	b.eventually("session", b.running)
	b.ear.mu.Lock()
	b.ear.fail = errors.New("away")
	b.ear.mu.Unlock()
	for i := range 50 {
		now := time.Now()
		b.driver.say(Batch{Reachable: true, Time: now, Readings: []Reading{{0, Int(int64(i)), Good, "", now}}})
	}
	b.ear.mu.Lock()
	b.ear.fail = nil
	b.ear.mu.Unlock()
	b.eventually("samples", func() bool { b.ear.mu.Lock(); defer b.ear.mu.Unlock(); return len(b.ear.samples) == 50 })
	b.eventually("status", func() bool {
		b.ear.mu.Lock()
		defer b.ear.mu.Unlock()
		l := len(b.ear.statuses)
		return l > 0 && b.ear.statuses[l-1].Status.Twins[0].Reported.Value == "49"
	})
	b.ear.mu.Lock()
	defer b.ear.mu.Unlock()
	for i, s := range b.ear.samples {
		if s.Sequence != uint64(i+1) || s.Dropped != 0 {
			t.Fatal(i, s)
		}
	}
}

// The outbox drops the oldest samples, tells how many, and never drops an audit.
func TestOutboxDropsOldestSamples(t *testing.T) {
	o := newOutbox(&ear{}, zaptest.NewLogger(t))
	o.put(&Audit{Sequence: 1})
	for i := range outboxSamples + 10 {
		o.put(&Samples{Sequence: uint64(i + 1)})
	}
	if a, ok := o.take().(*Audit); !ok || a.Sequence != 1 {
		t.Fatal("audit")
	}
	if s := o.take().(*Samples); s.Sequence != 11 || s.Dropped != 10 {
		t.Fatal(s)
	}
}

// A device bound elsewhere, or recreated, is not the one that was here.
func TestMovedAndRecreated(t *testing.T) {
	b := newBench(t)
	b.desire("1")
	b.eventually("written", func() bool { return b.driver.written() == "a=1" })
	b.device.UID = "u2"
	b.driver.set(func() { b.driver.values["a"] = "0" })
	b.apply()
	b.eventually("written anew", func() bool { return b.driver.written() == "a=1 a=1" })
	b.eventually("session", b.running)
	b.device.Spec.NodeName = "other"
	b.apply()
	b.eventually("stopped", func() bool { return !b.running() })
	b.eventually("forgotten", func() bool { b.state.mu.Lock(); defer b.state.mu.Unlock(); return len(b.state.m) == 0 })
}

func TestCallsAfterStop(t *testing.T) {
	b := newBench(t)
	b.apply()
	b.stop()
	if err := b.host.ApplyDevice(context.Background(), b.device, "1"); !errors.Is(err, ErrStopped) {
		t.Fatal(err)
	}
	if err := b.host.Run(context.Background()); err == nil {
		t.Fatal("runs twice")
	}
}

func TestFileState(t *testing.T) {
	f := FileState{Dir: t.TempDir() + "/deep/state"}
	ctx := context.Background()
	if v, err := f.Load(ctx, "ns/a.b"); v != nil || err != nil {
		t.Fatal(v, err)
	}
	if err := f.Delete(ctx, "ns/a.b"); err != nil {
		t.Fatal(err)
	}
	for _, v := range []string{"1", "22"} {
		if err := f.Save(ctx, "ns/a.b", []byte(v)); err != nil {
			t.Fatal(err)
		}
		if got, err := f.Load(ctx, "ns/a.b"); string(got) != v || err != nil {
			t.Fatal(got, err)
		}
	}
	if err := f.Delete(ctx, "ns/a.b"); err != nil {
		t.Fatal(err)
	}
	if v, err := f.Load(ctx, "ns/a.b"); v != nil || err != nil {
		t.Fatal(v, err)
	}
}
