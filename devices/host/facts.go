package host

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

// facts has everything that the status of a device consists of.
type facts struct {
	device     devices.Ref
	node       string
	points     []devices.Point
	twins      []twin
	desired    map[string]desired.State
	health     health
	problems   []devices.Problem
	lastOnline time.Time
	report     devices.StateReporting
	generation int64
}

// status returns the DeviceStatus as of now. It is a pure function. It includes desired
// values of properties that have a problem, so that their rejection is visible.
func (f facts) status(now time.Time) *v1beta1.DeviceStatus {
	yes := true
	s := &v1beta1.DeviceStatus{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1beta1.SchemeGroupVersion.String(), Kind: "DeviceStatus"},
		ObjectMeta: metav1.ObjectMeta{Namespace: f.device.Namespace, Name: f.device.Name},
	}
	if f.device.UID != "" {
		s.OwnerReferences = []metav1.OwnerReference{{
			APIVersion: v1beta1.SchemeGroupVersion.String(), Kind: "Device", Name: f.device.Name,
			UID: types.UID(f.device.UID), Controller: &yes,
		}}
	}
	for i, p := range f.points {
		t := v1beta1.Twin{PropertyName: p.Name}
		if p.Report && f.twins[i].quality != "" {
			t.Reported = f.twins[i].property(p.Type, now)
		}
		if c, ok := f.desired[p.Name]; ok {
			t.ObservedDesired = c.Property(p.Type)
		}
		if t.Reported != nil || t.ObservedDesired != nil {
			s.Status.Twins = append(s.Status.Twins, t)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(f.desired)) {
		if !slices.ContainsFunc(f.points, func(p devices.Point) bool { return p.Name == name }) {
			s.Status.Twins = append(s.Status.Twins, v1beta1.Twin{PropertyName: name, ObservedDesired: f.desired[name].Property("")})
		}
	}
	if !f.report.Hidden {
		s.Status.State = f.health.state
		if !f.lastOnline.IsZero() {
			s.Status.LastOnlineTime = f.lastOnline.UTC().Format(time.RFC3339)
		}
	}
	s.Status.Extensions = &v1beta1.CustomizedValue{Data: f.extensions()}
	return s
}

func (f facts) extensions() map[string]any {
	x := map[string]any{"reason": f.health.reason, "node": f.node}
	if m := f.message(); m != "" {
		x["message"] = m
	}
	if f.generation > 0 {
		x["observedGeneration"] = f.generation
	}
	if len(f.problems) > 0 {
		list := make([]any, len(f.problems))
		for i, p := range f.problems {
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

// message explains the state. For a degraded device it names the first few properties that
// cannot be read.
func (f facts) message() string {
	if f.health.reason != devices.ReasonDegraded {
		return f.health.message
	}
	const named = 3
	var bad []string
	for i, t := range f.twins {
		if t.faulty {
			bad = append(bad, f.points[i].Name+" ("+t.reason+")")
		}
	}
	m := fmt.Sprintf("%d of %d properties: %s", len(bad), len(f.points), strings.Join(bad[:min(named, len(bad))], ", "))
	if len(bad) > named {
		m += ", …"
	}
	return m
}

// snapshot returns a copy that the worker does not change.
func (f facts) snapshot() facts {
	f.twins = slices.Clone(f.twins)
	f.desired = maps.Clone(f.desired)
	f.problems = slices.Clone(f.problems)
	return f
}
