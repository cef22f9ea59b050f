package modbus

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/devicestest"
	"github.com/petiole-io/petiole/devices/host"
	"github.com/petiole-io/petiole/devices/host/hosttest"
)

// sink records what the devices report.
type sink struct {
	mu       sync.Mutex
	statuses map[string][]*v1beta1.DeviceStatus
	samples  map[string][]*devices.Samples
	audits   []*devices.Audit
	events   []*devices.Event
}

func (s *sink) Status(_ context.Context, d devices.Ref, st *v1beta1.DeviceStatus) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.statuses[d.Name] = append(s.statuses[d.Name], st)
	return nil
}

func (s *sink) Samples(_ context.Context, b *devices.Samples) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.samples[b.Device.Name] = append(s.samples[b.Device.Name], b)
	return nil
}

func (s *sink) Audit(_ context.Context, a *devices.Audit) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.audits = append(s.audits, a)
	return nil
}

// audited are the audits of writes that may have reached the device, and the others. One
// of a value that came while the session began is audited as pending before it is written.
func (s *sink) audited() (written, others []*devices.Audit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.audits {
		if a.Written {
			written = append(written, a)
		} else {
			others = append(others, a)
		}
	}
	return written, others
}

func (s *sink) Event(_ context.Context, e *devices.Event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, e)
	return nil
}

func (s *sink) status(device string) *v1beta1.DeviceStatusStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.statuses[device]
	if len(l) == 0 {
		return nil
	}
	return &l[len(l)-1].Status
}

func (s *sink) twin(device, property string) v1beta1.Twin {
	if st := s.status(device); st != nil {
		for _, t := range st.Twins {
			if t.PropertyName == property {
				return t
			}
		}
	}
	return v1beta1.Twin{}
}

func (s *sink) reported(device, property string) string {
	t := s.twin(device, property)
	if t.Reported == nil {
		return ""
	}
	return t.Reported.Value
}

func (s *sink) ack(device, property string) string {
	t := s.twin(device, property)
	if t.ObservedDesired == nil {
		return ""
	}
	return t.ObservedDesired.Metadata["ack"]
}

func (s *sink) state(device string) string {
	if st := s.status(device); st != nil {
		return st.State
	}
	return ""
}

func (s *sink) event(reason string) *devices.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.events {
		if e.Reason == reason {
			return e
		}
	}
	return nil
}

// count returns the number of good samples of a property.
func (s *sink) count(device, property string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.samples[device] {
		for _, x := range b.Samples {
			if x.Property == property && x.Quality == devices.Good {
				n++
			}
		}
	}
	return n
}

// rig is a host with the Modbus driver and a sink that records.
type rig struct {
	t     *testing.T
	host  *host.Host
	sink  *sink
	state devices.State
	rev   int
	stop  func()
}

func newRig(t *testing.T) *rig { return newRigWith(t, &devicestest.State{}) }

func newRigWith(t *testing.T, state devices.State) *rig {
	t.Helper()
	r := &rig{t: t, state: state, sink: &sink{statuses: map[string][]*v1beta1.DeviceStatus{}, samples: map[string][]*devices.Samples{}}}
	log := zaptest.NewLogger(t)
	h, err := host.New(host.Config{Node: "n", Drivers: []devices.Driver{New(log)}, Sink: r.sink, State: state, Clock: &hosttest.Clock{}, Log: log, StatusInterval: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	r.host = h
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := h.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	r.stop = func() { cancel(); <-done }
	t.Cleanup(r.stop)
	return r
}

// prop is a property of a test device.
type prop struct {
	name    string
	typ     v1beta1.PropertyType
	ro      bool
	visitor map[string]any
	cycle   int64
	desired string
	min     string
	max     string
}

// apply applies a device with a model of its own.
func (r *rig) apply(name, addr string, config map[string]any, props ...prop) *v1beta1.Device {
	r.t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		r.t.Fatal(err)
	}
	all := map[string]any{"ip": host, "port": port, "timeout": 300}
	for k, v := range config {
		all[k] = v
	}
	m := &v1beta1.DeviceModel{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
	d := &v1beta1.Device{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("uid-" + name)}}
	d.Spec.NodeName = "n"
	d.Spec.DeviceModelRef = ref(name)
	d.Spec.Protocol = v1beta1.ProtocolConfig{ProtocolName: "Modbus", ConfigData: &v1beta1.CustomizedValue{Data: all}}
	for _, p := range props {
		access := v1beta1.ReadWrite
		if p.ro {
			access = v1beta1.ReadOnly
		}
		m.Spec.Properties = append(m.Spec.Properties, v1beta1.ModelProperty{Name: p.name, Type: p.typ, AccessMode: access, Minimum: p.min, Maximum: p.max})
		dp := v1beta1.DeviceProperty{
			Name: p.name, CollectCycle: p.cycle, ReportToCloud: true,
			Visitors: &v1beta1.VisitorConfig{ProtocolName: "modbus", ConfigData: &v1beta1.CustomizedValue{Data: p.visitor}},
		}
		if p.desired != "" {
			dp.Desired = &v1beta1.TwinProperty{Value: p.desired}
		}
		d.Spec.Properties = append(d.Spec.Properties, dp)
	}
	r.send(d, m)
	return d
}

func (r *rig) send(d *v1beta1.Device, m *v1beta1.DeviceModel) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	r.rev++
	if m != nil {
		if err := r.host.ApplyModel(ctx, m, strconv.Itoa(r.rev)); err != nil {
			r.t.Fatal(err)
		}
	}
	if d != nil {
		if err := r.host.ApplyDevice(ctx, d.DeepCopy(), strconv.Itoa(r.rev)); err != nil {
			r.t.Fatal(err)
		}
	}
}

// desire changes one desired value and sends the device.
func (r *rig) desire(d *v1beta1.Device, property, value string) {
	r.t.Helper()
	for i := range d.Spec.Properties {
		if d.Spec.Properties[i].Name == property {
			d.Spec.Properties[i].Desired = &v1beta1.TwinProperty{Value: value}
		}
	}
	r.send(d, nil)
}

func holding(at int, more ...any) map[string]any { return visitor("HoldingRegister", at, more) }

func visitor(register string, at int, more []any) map[string]any {
	v := map[string]any{"register": register, "offset": at}
	for i := 0; i+1 < len(more); i += 2 {
		v[more[i].(string)] = more[i+1]
	}
	return v
}

func parseUint(s string) (uint64, error) { return strconv.ParseUint(s, 10, 64) }

func example(t *testing.T, file string, into any) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("../../deploy/kubernetes/examples/devices", file))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict(b, into); err != nil {
		t.Fatal(err)
	}
}

func pretty(v any) string {
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err.Error()
	}
	return string(b)
}
