package twin

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/internal/desired"
)

// Device is what is known of one device: everything that its status consists of.
type Device struct {
	Ref  devices.Ref
	Node string
	// Definition is the one with which the device is operated. Twins has a twin for each of its
	// points.
	Definition devices.Definition
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
			t.restored = r
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

// Status returns the DeviceStatus as of now. It is a pure function. It includes desired
// values of properties that have a problem, so that their rejection is visible.
func (d Device) Status(now time.Time) *v1beta1.DeviceStatus {
	yes := true
	s := &v1beta1.DeviceStatus{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1beta1.SchemeGroupVersion.String(), Kind: "DeviceStatus"},
		ObjectMeta: metav1.ObjectMeta{Namespace: d.Ref.Namespace, Name: d.Ref.Name},
	}
	if d.Ref.UID != "" {
		s.OwnerReferences = []metav1.OwnerReference{{
			APIVersion: v1beta1.SchemeGroupVersion.String(), Kind: "Device", Name: d.Ref.Name,
			UID: types.UID(d.Ref.UID), Controller: &yes,
		}}
	}
	for i, p := range d.Definition.Points {
		t := v1beta1.Twin{PropertyName: p.Name}
		if p.Report && d.Twins[i].known() {
			t.Reported = d.Twins[i].property(p.Type, now)
		}
		if c, ok := d.Desired[p.Name]; ok {
			t.ObservedDesired = c.Property(p.Type)
		}
		if t.Reported != nil || t.ObservedDesired != nil {
			s.Status.Twins = append(s.Status.Twins, t)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.Desired)) {
		if !slices.ContainsFunc(d.Definition.Points, func(p devices.Point) bool { return p.Name == name }) {
			s.Status.Twins = append(s.Status.Twins, v1beta1.Twin{PropertyName: name, ObservedDesired: d.Desired[name].Property("")})
		}
	}
	if !d.Definition.Report.Hidden {
		s.Status.State = d.Health.State
		if !d.LastOnline.IsZero() {
			s.Status.LastOnlineTime = d.LastOnline.UTC().Format(time.RFC3339)
		}
	}
	s.Status.Extensions = &v1beta1.CustomizedValue{Data: d.extensions()}
	return s
}

func (d Device) extensions() map[string]any {
	x := map[string]any{"reason": d.Health.Reason, "node": d.Node}
	if m := d.Message(); m != "" {
		x["message"] = m
	}
	if !d.OnlineSince.IsZero() && !d.Definition.Report.Hidden {
		x["onlineSince"] = d.OnlineSince.UTC().Format(time.RFC3339)
	}
	if len(d.Identification) > 0 {
		id := make(map[string]any, len(d.Identification))
		for name, text := range d.Identification {
			id[name] = text
		}
		x["identification"] = id
	}
	if d.Generation > 0 {
		x["observedGeneration"] = d.Generation
	}
	if len(d.Problems) > 0 {
		list := make([]any, len(d.Problems))
		for i, p := range d.Problems {
			m := map[string]any{"reason": p.Reason, "message": p.Message}
			if p.Property != "" {
				m["property"] = p.Property
			}
			list[i] = m
		}
		x["problems"] = list
	}
	return x
}

// Message explains the state. For a degraded device it names the first few properties that
// cannot be read.
func (d Device) Message() string {
	if d.Health.Reason != devices.ReasonDegraded {
		return d.Health.Message
	}
	const named = 3
	var bad []string
	for i, t := range d.Twins {
		if t.faulty {
			bad = append(bad, d.Definition.Points[i].Name+" ("+t.Reason+")")
		}
	}
	m := fmt.Sprintf("%d of %d properties: %s", len(bad), len(d.Definition.Points), strings.Join(bad[:min(named, len(bad))], ", "))
	if len(bad) > named {
		m += ", …"
	}
	return m
}

// Snapshot returns a copy that later calls do not change.
func (d Device) Snapshot() Device {
	d.Twins = slices.Clone(d.Twins)
	d.Desired = maps.Clone(d.Desired)
	d.Problems = slices.Clone(d.Problems)
	return d
}
