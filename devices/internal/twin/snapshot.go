package twin

import (
	"maps"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// Snapshot is what a DeviceStatus consists of. Nothing changes it. Hundreds may wait to be stored at
// the same time: it has the twins that are shown, and no others.
type Snapshot struct {
	ref        devices.Ref
	node       string
	hidden     bool // the state is not reported
	generation int64
	twins      []snapshotTwin

	health                  Health
	message                 string
	problems                []devices.Problem
	identification          map[string]string
	lastOnline, onlineSince time.Time
}

// snapshotTwin is a twin in a status.
type snapshotTwin struct {
	property string
	typ      v1beta1.PropertyType
	reported shown
	// desired is the state of the desired value, nil if there is none.
	desired *v1beta1.TwinProperty
}

// Snapshot returns what a status of now consists of. It includes desired values of properties that
// have a problem, so that their rejection is visible.
func (d *Device) Snapshot() *Snapshot {
	s := &Snapshot{
		ref: d.Ref, node: d.Node, hidden: d.Definition.Report.Hidden, generation: d.Generation,
		health: d.Health, message: d.Message(), problems: slices.Clone(d.Problems), identification: d.Identification,
		lastOnline: d.LastOnline, onlineSince: d.OnlineSince,
	}
	for i := range d.Definition.Points {
		p := &d.Definition.Points[i]
		t := snapshotTwin{property: p.Name, typ: p.Type}
		if p.Report {
			t.reported = d.Twins[i].shown
		}
		if c, ok := d.Desired[p.Name]; ok {
			t.desired = c.Property(p.Type)
		}
		if t.desired != nil || t.reported.known() {
			s.twins = append(s.twins, t)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.Desired)) {
		if !slices.ContainsFunc(d.Definition.Points, func(p devices.Point) bool { return p.Name == name }) {
			s.twins = append(s.twins, snapshotTwin{property: name, desired: d.Desired[name].Property("")})
		}
	}
	return s
}

// Status returns the DeviceStatus. A value that is not good has its age as of now.
func (s *Snapshot) Status(now time.Time) *v1beta1.DeviceStatus {
	yes := true
	status := &v1beta1.DeviceStatus{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1beta1.SchemeGroupVersion.String(), Kind: "DeviceStatus"},
		ObjectMeta: metav1.ObjectMeta{Namespace: s.ref.Namespace, Name: s.ref.Name},
	}
	if s.ref.UID != "" {
		status.OwnerReferences = []metav1.OwnerReference{{
			APIVersion: v1beta1.SchemeGroupVersion.String(), Kind: "Device", Name: s.ref.Name,
			UID: types.UID(s.ref.UID), Controller: &yes,
		}}
	}
	for i := range s.twins {
		t := v1beta1.Twin{PropertyName: s.twins[i].property, ObservedDesired: s.twins[i].desired}
		if r := &s.twins[i].reported; r.known() {
			t.Reported = r.property(s.twins[i].typ, now)
		}
		status.Status.Twins = append(status.Status.Twins, t)
	}
	if !s.hidden {
		status.Status.State = s.health.State
		if !s.lastOnline.IsZero() {
			status.Status.LastOnlineTime = s.lastOnline.UTC().Format(time.RFC3339)
		}
	}
	status.Status.Extensions = &v1beta1.CustomizedValue{Data: s.extensions()}
	return status
}

func (s *Snapshot) extensions() map[string]any {
	x := map[string]any{"reason": s.health.Reason, "node": s.node}
	if s.message != "" {
		x["message"] = s.message
	}
	if !s.onlineSince.IsZero() && !s.hidden {
		x["onlineSince"] = s.onlineSince.UTC().Format(time.RFC3339)
	}
	if len(s.identification) > 0 {
		id := make(map[string]any, len(s.identification))
		for name, text := range s.identification {
			id[name] = text
		}
		x["identification"] = id
	}
	if s.generation > 0 {
		x["observedGeneration"] = s.generation
	}
	if len(s.problems) > 0 {
		list := make([]any, len(s.problems))
		for i, p := range s.problems {
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
