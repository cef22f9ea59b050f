package host

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/devicestest"
	"github.com/petiole-io/petiole/devices/host/hosttest"
	"github.com/petiole-io/petiole/internal/polltest"
)

// fake is a driver of devices that are maps.
type fake struct {
	mu      sync.Mutex
	open    int
	running int
	values  map[string]string
	writes  []string
	fails   map[string]error // what writing a property ends with
	away    bool
	deaf    bool       // writes whatever becomes of their context
	crash   chan error // ends a session
	deliver func(devices.Batch)
	def     devices.Definition
	entered chan struct{} // a write has begun
	gate    chan struct{} // and may go on
	wrap    func(devices.Session) devices.Session
}

func (f *fake) Protocols() []string { return []string{"Fake"} }

func (f *fake) Open(def devices.Definition) (devices.Session, []devices.Problem, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open++
	f.def = def
	if f.wrap != nil {
		return f.wrap(fakeSession{f, f.open}), nil, nil
	}
	return fakeSession{f, f.open}, nil, nil
}

// fakeSession is one of a fake's sessions, of which the newest is talked to.
type fakeSession struct {
	*fake
	number int
}

func (f fakeSession) Run(ctx context.Context, deliver func(devices.Batch)) error {
	f.mu.Lock()
	f.running++
	if f.number == f.open {
		f.deliver = deliver
	}
	crash := f.crash
	f.mu.Unlock()
	var err error
	select {
	case <-ctx.Done():
	case err = <-crash:
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.running--
	return err
}

// Write does not begin after ctx has ended, like every driver but a deaf one.
func (f *fake) Write(ctx context.Context, i int, value string) (devices.Outcome, error) {
	return f.write(ctx, i, value, false)
}

// Command writes also what is there.
func (f *fake) Command(ctx context.Context, i int, value string) (devices.Outcome, error) {
	return f.write(ctx, i, value, true)
}

func (f *fake) write(ctx context.Context, i int, value string, always bool) (devices.Outcome, error) {
	f.mu.Lock()
	entered, gate := f.entered, f.gate
	if f.deaf {
		ctx = context.WithoutCancel(ctx)
	}
	f.mu.Unlock()
	if entered != nil {
		select {
		case entered <- struct{}{}:
		case <-ctx.Done():
			return devices.Outcome{}, ctx.Err()
		}
		select {
		case <-gate:
		case <-ctx.Done():
			return devices.Outcome{}, ctx.Err()
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.def.Points[i].Name
	if f.away {
		return devices.Outcome{}, devices.ErrUnreachable
	}
	if err := f.fails[p]; err != nil {
		return devices.Outcome{Before: f.values[p]}, err
	}
	o := devices.Outcome{Before: f.values[p], After: value, Written: always || f.values[p] != value}
	if o.Written {
		o.Sent = p + "=" + value
		f.writes = append(f.writes, p+"="+value)
		f.values[p] = value
	}
	return o, nil
}

// read delivers what the device has, as one poll of all its points.
func (f *fake) read() {
	f.mu.Lock()
	b := devices.Batch{Reachable: !f.away, Time: time.Now()}
	if f.away {
		b.Reason = "Timeout"
	}
	for i, p := range f.def.Points {
		r := devices.Reading{Point: i, Quality: devices.Bad, Reason: "Timeout", Time: b.Time}
		if n, err := strconv.ParseInt(f.values[p.Name], 10, 64); err == nil && !f.away {
			r = devices.Reading{Point: i, Value: devices.Int(n), Quality: devices.Good, Time: b.Time}
		}
		if !f.away && r.Quality == devices.Bad {
			continue
		}
		b.Readings = append(b.Readings, r)
	}
	f.mu.Unlock()
	f.say(b)
}

func (f *fake) set(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
}

func (f *fake) opened() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.open
}

func (f *fake) written() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.writes, " ")
}

// say delivers a batch as if it had been read.
func (f *fake) say(b devices.Batch) {
	for {
		f.mu.Lock()
		d := f.deliver
		f.mu.Unlock()
		if d != nil {
			d(b)
			return
		}
		time.Sleep(time.Millisecond) // the session has not begun
	}
}

// recordingSink is a sink that records, and fails with fail.
type recordingSink struct {
	mu       sync.Mutex
	fail     error
	statuses []*v1beta1.DeviceStatus
	when     []time.Time
	samples  []*devices.Samples
	audits   []*devices.Audit
	events   []*devices.Event
}

// values returns the number of samples in all records.
func (e *recordingSink) values() (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range e.samples {
		n += len(s.Samples)
	}
	return n
}

func (e *recordingSink) take(do func()) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.fail == nil {
		do()
	}
	return e.fail
}

func (e *recordingSink) Status(_ context.Context, _ devices.Ref, s *v1beta1.DeviceStatus) error {
	return e.take(func() { e.statuses = append(e.statuses, s); e.when = append(e.when, time.Now()) })
}

func (e *recordingSink) Samples(_ context.Context, s *devices.Samples) error {
	return e.take(func() { e.samples = append(e.samples, s) })
}

func (e *recordingSink) Audit(_ context.Context, a *devices.Audit) error {
	return e.take(func() { e.audits = append(e.audits, a) })
}

func (e *recordingSink) Event(_ context.Context, x *devices.Event) error {
	return e.take(func() { e.events = append(e.events, x) })
}

// LastStatus returns what a sink returns that keeps the newest status.
func (e *recordingSink) LastStatus(_ context.Context, d devices.Ref) (last *v1beta1.DeviceStatus, err error) {
	err = e.take(func() {
		for _, s := range e.statuses {
			if s.Namespace == d.Namespace && s.Name == d.Name {
				last = s
			}
		}
	})
	return last, err
}

func (e *recordingSink) ack(property string) (ack devices.Ack) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.statuses) > 0 {
		for _, t := range e.statuses[len(e.statuses)-1].Status.Twins {
			if t.PropertyName == property && t.ObservedDesired != nil {
				ack = devices.Ack(t.ObservedDesired.Metadata["ack"])
			}
		}
	}
	return ack
}

// statusInterval is the bench's shortest time between two statuses of a device.
const statusInterval = 20 * time.Millisecond

type bench struct {
	t      *testing.T
	host   *Host
	driver *fake
	sink   *recordingSink
	state  *devicestest.State
	device *v1beta1.Device
	model  *v1beta1.DeviceModel
	rev    int
	stop   func()
}

func newBench(t *testing.T) *bench {
	b := &bench{t: t, driver: &fake{values: map[string]string{}}, sink: &recordingSink{}, state: &devicestest.State{}}
	b.device, b.model = devicestest.Parse(t, `
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
	h, err := New(Config{Node: "n", Drivers: []devices.Driver{b.driver}, Sink: b.sink, State: b.state, Clock: &hosttest.Clock{}, Log: zaptest.NewLogger(b.t), StatusInterval: statusInterval})
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
	polltest.Eventually(b.t, what, ok)
}

func (b *bench) observed(property string) (value string) {
	b.sink.mu.Lock()
	defer b.sink.mu.Unlock()
	if len(b.sink.statuses) > 0 {
		for _, t := range b.sink.statuses[len(b.sink.statuses)-1].Status.Twins {
			if t.PropertyName == property && t.ObservedDesired != nil {
				value = t.ObservedDesired.Value
			}
		}
	}
	return value
}

// status is the newest status.
func (b *bench) status() v1beta1.DeviceStatusStatus {
	b.sink.mu.Lock()
	defer b.sink.mu.Unlock()
	if len(b.sink.statuses) == 0 {
		return v1beta1.DeviceStatusStatus{}
	}
	return b.sink.statuses[len(b.sink.statuses)-1].Status
}

func (b *bench) reported(property string) v1beta1.TwinProperty {
	for _, t := range b.status().Twins {
		if t.PropertyName == property && t.Reported != nil {
			return *t.Reported
		}
	}
	return v1beta1.TwinProperty{}
}

func (b *bench) audits(ok func(*devices.Audit) bool) (found []*devices.Audit) {
	b.sink.mu.Lock()
	defer b.sink.mu.Unlock()
	for _, a := range b.sink.audits {
		if ok(a) {
			found = append(found, a)
		}
	}
	return found
}

func (b *bench) events(reason string) (n int) {
	b.sink.mu.Lock()
	defer b.sink.mu.Unlock()
	for _, e := range b.sink.events {
		if e.Reason == reason {
			n++
		}
	}
	return n
}

// online applies the device and has it answer.
func (b *bench) online() {
	b.t.Helper()
	b.apply()
	b.eventually("session", b.running)
	b.eventually("online", func() bool {
		b.driver.read() // of a session that has just been replaced it is lost
		return b.host.Stats().Devices[v1beta1.StateOnline] == 1
	})
}

func (b *bench) running() bool {
	b.driver.mu.Lock()
	defer b.driver.mu.Unlock()
	return b.driver.running == 1
}
