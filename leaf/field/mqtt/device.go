package mqtt

import (
	"time"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// documentInterval is the minimum time between two documents of one device. The changes
// between them are published together.
const documentInterval = time.Second

// device is the last published state of a device.
type device struct {
	namespace, name, description string

	state, lastOnline string
	properties        []string // those of the Device
	expected          map[string]*value
	withheld          map[string]bool // expected values that the mapper must not write
	actual            map[string]devices.Sample
	// changed holds the properties that have changed since the last document, with the
	// twins that the document had.
	changed    map[string]*twin
	documentAt time.Time
}

func newDevice(namespace, name string) *device {
	return &device{namespace: namespace, name: name, actual: map[string]devices.Sample{}, changed: map[string]*twin{}}
}

// apply updates the device. It reports whether an expected value has changed.
func (d *device) apply(o *v1beta1.Device) (expectedChanged bool) {
	d.description = o.Annotations["kubernetes.io/description"]
	expected := expectedOf(o)
	for name, v := range expected {
		was := d.expected[name]
		expectedChanged = expectedChanged || was == nil || *was.Value != *v.Value
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
			delete(d.changed, name)
		}
	}
	return expectedChanged
}

// withhold takes over which desired values were rejected or have expired. The mapper of a device
// does not see them.
func (d *device) withhold(status *v1beta1.DeviceStatus, mapped bool) {
	d.withheld = map[string]bool{}
	for _, t := range status.Status.Twins {
		if mapped && t.ObservedDesired != nil {
			ack := devices.Ack(t.ObservedDesired.Metadata["ack"])
			d.withheld[t.PropertyName] = ack == devices.Rejected || ack == devices.Expired
		}
	}
}

// observe updates the actual values. A bad sample keeps the last good value and its time. Changes are
// for a document only if somebody follows the device.
func (d *device) observe(b *devices.Samples, followed bool) {
	if !followed {
		clear(d.changed)
	}
	for _, s := range b.Samples {
		was, known := d.actual[s.Property]
		if known && s.Quality == devices.Bad {
			s.Value, s.Time = was.Value, was.Time
		}
		if known && was.Value == s.Value && was.Quality == s.Quality && was.Reason == s.Reason {
			d.actual[s.Property] = s
			continue
		}
		if _, pending := d.changed[s.Property]; !pending && followed {
			d.changed[s.Property] = d.twin(s.Property)
		}
		d.actual[s.Property] = s
	}
}

// document returns the changes since the last document, nil if there are none or it is too
// early.
func (d *device) document(now time.Time) map[string]change {
	if len(d.changed) == 0 || now.Sub(d.documentAt) < documentInterval {
		return nil
	}
	out := make(map[string]change, len(d.changed))
	for name, last := range d.changed {
		out[name] = change{Last: last, Current: d.twin(name)}
	}
	clear(d.changed)
	d.documentAt = now
	return out
}

// twin returns a copy of a property's twin, nil if the property has no value.
func (d *device) twin(property string) *twin {
	t := &twin{}
	if !d.withheld[property] {
		t.Expected = d.expected[property]
	}
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

// twins returns the twins of all properties. The twin of a property without a value is empty.
func (d *device) twins() map[string]*twin {
	all := make(map[string]*twin, len(d.properties))
	for _, name := range d.properties {
		if all[name] = d.twin(name); all[name] == nil {
			all[name] = &twin{}
		}
	}
	return all
}

// delta returns the expected values that differ from the actual ones.
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
