package twin

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/internal/desired"
	"github.com/petiole-io/petiole/devices/internal/points"
)

// Device is what is known of one device: everything that its status consists of.
type Device struct {
	Ref  devices.Ref
	Node string
	// Definition is the one with which the device is operated. Twins has a twin for each of its
	// points.
	Definition devices.Definition
	// Points shares the points of the definition with other devices.
	Points     points.User
	Twins      []Twin
	Desired    map[string]desired.State
	Health     Health
	Problems   []devices.Problem
	LastOnline time.Time
	// OnlineSince is since when the device responds, as far as this session knows; zero while it
	// does not.
	OnlineSince time.Time
	// Identification is what the device says of itself, as read in this session.
	Identification map[string]string
	// Generation is that of the object from which the definition comes.
	Generation int64
	// restored are the reported values of the last status before a restart, by property.
	restored map[string]v1beta1.TwinProperty
	// unreachable counts batches in a row without a response of the device.
	unreachable int
}

// New returns a device that was not contacted yet.
func New(ref devices.Ref, node string) *Device {
	return &Device{Ref: ref, Node: node, Desired: map[string]desired.State{}, Health: Health{State: v1beta1.StateUnknown, Reason: devices.ReasonConnecting}}
}

// SetDefinition takes over a definition. Points that stay keep their twins.
func (d *Device) SetDefinition(def devices.Definition) {
	known := make(map[string]Twin, len(d.Twins))
	for i, p := range d.Definition.Points {
		known[p.Name] = d.Twins[i]
	}
	d.Definition, d.Twins = def, make([]Twin, len(def.Points))
	for i, p := range def.Points {
		t, ok := known[p.Name]
		if r, was := d.restored[p.Name]; !ok && was && r.Metadata[metaType] == typeName(p.Type) {
			t.restored = &r
		}
		d.Twins[i] = t
	}
	if len(def.Points) > 0 {
		d.restored = nil
	}
}

// Restore takes over the reported values of the last status before a restart, unless it is
// that of an earlier device of the same name. They are reported with quality uncertain until
// they are read again, and are nothing else: no samples, and no values to compare with.
func (d *Device) Restore(s *v1beta1.DeviceStatus) {
	if d.Ref.UID != "" && !slices.ContainsFunc(s.OwnerReferences, func(o metav1.OwnerReference) bool { return string(o.UID) == d.Ref.UID }) {
		return
	}
	d.restored = map[string]v1beta1.TwinProperty{}
	for _, t := range s.Status.Twins {
		if t.Reported != nil && t.Reported.Metadata[metaTimestamp] != "" {
			d.restored[t.PropertyName] = *t.Reported
		}
	}
}

// Restart takes over a definition for which a new session is opened. Problems are those of
// the definition and of opening the session.
func (d *Device) Restart(def devices.Definition, problems []devices.Problem) {
	d.SetDefinition(def)
	d.clearFaults()
	d.unreachable = 0
	d.Health = InitialHealth(def, problems)
	d.OnlineSince, d.Identification = time.Time{}, nil
}

// Message explains the state. For a degraded device it names the first few properties that
// cannot be read.
func (d *Device) Message() string {
	if d.Health.Reason != devices.ReasonDegraded {
		return d.Health.Message
	}
	const named = 3
	var bad []string
	for i := range d.Twins {
		if t := &d.Twins[i]; t.faulty {
			bad = append(bad, d.Definition.Points[i].Name+" ("+t.Reason+")")
		}
	}
	m := fmt.Sprintf("%d of %d properties: %s", len(bad), len(d.Definition.Points), strings.Join(bad[:min(named, len(bad))], ", "))
	if len(bad) > named {
		m += ", …"
	}
	return m
}

// RepeatAfter returns the time after which a status is repeated that has nothing new but
// times: the shortest of the settings of the device and its reported points. A hash of the
// name spreads it over its last quarter, so that devices that start together do not report
// together.
func (d *Device) RepeatAfter() time.Duration {
	shortest := d.Definition.Report.Cycle
	for _, p := range d.Definition.Points {
		if h := p.Reporting.Heartbeat; p.Report && h > 0 && (shortest == 0 || h < shortest) {
			shortest = h
		}
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(d.Definition.Device.String())) // never fails
	return shortest - time.Duration(uint64(h.Sum32())*uint64(shortest/4)>>32)
}
