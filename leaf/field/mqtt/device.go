package mqtt

import (
	"time"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// documentInterval is the shortest time between two documents of one device: changes
// between them are told together.
const documentInterval = time.Second

// device is what was last told of a device.
type device struct {
	namespace, name, description string

	state, lastOnline string
	properties        []string // those of the Device
	expected          map[string]*value
	actual            map[string]devices.Sample
	// told is what the last document had of the properties that changed since.
	told   map[string]*twin
	toldAt time.Time
}

func newDevice(namespace, name string) *device {
	return &device{namespace: namespace, name: name, actual: map[string]devices.Sample{}, told: map[string]*twin{}}
}

// apply takes the Device as it now is and tells whether something else is expected.
func (d *device) apply(o *v1beta1.Device) (news bool) {
	d.description = o.Annotations["kubernetes.io/description"]
	expected := expectedOf(o)
	for name, v := range expected {
		was := d.expected[name]
		news = news || was == nil || *was.Value != *v.Value
	}
	d.expected = expected
	d.properties = d.properties[:0]
	used := map[string]bool{}
	for _, p := range o.Spec.Properties {
		d.properties = append(d.properties, p.Name)
		used[p.Name] = true
	}
	for name := range d.actual {
		if !used[name] {
			delete(d.actual, name)
			delete(d.told, name)
		}
	}
	return news
}

// observe takes samples. A bad one leaves the last good value and its time.
func (d *device) observe(b *devices.Samples) {
	for _, s := range b.Samples {
		was, known := d.actual[s.Property]
		if known && s.Quality == devices.Bad {
			s.Value, s.Time = was.Value, was.Time
		}
		if known && was.Value == s.Value && was.Quality == s.Quality && was.Reason == s.Reason {
			d.actual[s.Property] = s
			continue
		}
		if _, pending := d.told[s.Property]; !pending {
			d.told[s.Property] = d.twin(s.Property)
		}
		d.actual[s.Property] = s
	}
}

// document is what has changed since the last one, nil when it is too early or nothing
// has.
func (d *device) document(now time.Time) map[string]change {
	if len(d.told) == 0 || now.Sub(d.toldAt) < documentInterval {
		return nil
	}
	out := make(map[string]change, len(d.told))
	for name, last := range d.told {
		out[name] = change{Last: last, Current: d.twin(name)}
	}
	clear(d.told)
	d.toldAt = now
	return out
}

// twin is a copy that later changes leave alone; nil when nothing is known.
func (d *device) twin(property string) *twin {
	t := &twin{Expected: d.expected[property]}
	if s, ok := d.actual[property]; ok {
		t.Actual = &value{Metadata: &valueInfo{s.Time, s.Quality, s.Reason}}
		if s.Value.Kind() != devices.None {
			text := s.Value.String()
			t.Actual.Value, t.Metadata = &text, &typeInfo{typeOf(s.Value)}
		}
	}
	if t.Expected == nil && t.Actual == nil {
		return nil
	}
	return t
}

// twins are those of all properties; one of which nothing is known is empty.
func (d *device) twins() map[string]*twin {
	all := make(map[string]*twin, len(d.properties))
	for _, name := range d.properties {
		if all[name] = d.twin(name); all[name] == nil {
			all[name] = &twin{}
		}
	}
	return all
}

// delta is what is expected where the device is known to have something else.
func (d *device) delta() map[string]string {
	out := map[string]string{}
	for name, v := range d.expected {
		if s, ok := d.actual[name]; ok && s.Value.String() != *v.Value {
			out[name] = *v.Value
		}
	}
	return out
}

func (d *device) describe() deviceState {
	return deviceState{ID: d.namespace + "/" + d.name, Name: d.name, Description: d.description, State: d.state, LastOnline: d.lastOnline}
}
