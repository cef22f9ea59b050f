package devices

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// twin is the last that is known of a point. Value is the last good one: it stays,
// with its time, when the quality goes bad.
type twin struct {
	value   Value
	text    string
	quality Quality
	reason  string
	time    time.Time
}

// observe takes a reading and tells whether anything but the time changed, and
// whether the reading is a sample: bad readings repeat nothing, so only the first
// of a row counts. A reading older than what is known (a poll that a write overtook)
// is a sample but no news.
func (t *twin) observe(r Reading) (changed, sample bool) {
	if r.Time.Before(t.time) {
		return false, r.Quality != Bad
	}
	if r.Quality == Bad {
		changed = t.quality != Bad || t.reason != r.Reason
		t.quality, t.reason = Bad, r.Reason
		return changed, changed
	}
	changed = t.quality != r.Quality || t.reason != r.Reason || t.value != r.Value
	if t.value != r.Value {
		t.text = r.Value.String()
	}
	t.value, t.quality, t.reason, t.time = r.Value, r.Quality, r.Reason, r.Time
	return changed, true
}

// health is the state of a device with why it is so.
type health struct {
	state, reason, message string
}

// facts is everything that the status of a device is made of.
type facts struct {
	device     Ref
	node       string
	points     []Point
	twins      []twin
	commands   map[string]command
	health     health
	problems   []Problem
	lastOnline time.Time
}

// status makes the DeviceStatus. It is pure. Commands for properties that have a
// problem appear too, so that their rejection is seen.
func (f facts) status() *v1beta1.DeviceStatus {
	yes := true
	s := &v1beta1.DeviceStatus{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1beta1.SchemeGroupVersion.String(), Kind: "DeviceStatus"},
		ObjectMeta: metav1.ObjectMeta{Namespace: f.device.Namespace, Name: f.device.Name},
	}
	if f.device.UID != "" {
		s.OwnerReferences = []metav1.OwnerReference{{
			APIVersion: v1beta1.SchemeGroupVersion.String(), Kind: "Device", Name: f.device.Name,
			UID: uid(f.device.UID), Controller: &yes,
		}}
	}
	for i, p := range f.points {
		t := v1beta1.Twin{PropertyName: p.Name}
		if p.Report && f.twins[i].quality != "" {
			t.Reported = f.twins[i].property(p.Type)
		}
		if c, ok := f.commands[p.Name]; ok {
			t.ObservedDesired = c.property(p.Type)
		}
		if t.Reported != nil || t.ObservedDesired != nil {
			s.Status.Twins = append(s.Status.Twins, t)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(f.commands)) {
		if !slices.ContainsFunc(f.points, func(p Point) bool { return p.Name == name }) {
			s.Status.Twins = append(s.Status.Twins, v1beta1.Twin{PropertyName: name, ObservedDesired: f.commands[name].property("")})
		}
	}
	s.Status.State = f.health.state
	if !f.lastOnline.IsZero() {
		s.Status.LastOnlineTime = f.lastOnline.UTC().Format(time.RFC3339)
	}
	s.Status.Extensions = &v1beta1.CustomizedValue{Data: f.extensions()}
	return s
}

func (f facts) extensions() map[string]any {
	x := map[string]any{"reason": f.health.reason, "node": f.node}
	if f.health.message != "" {
		x["message"] = f.health.message
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

func (t twin) property(typ v1beta1.PropertyType) *v1beta1.TwinProperty {
	m := map[string]string{"type": strings.ToLower(string(typ)), "quality": string(t.quality)}
	if !t.time.IsZero() {
		m["timestamp"] = strconv.FormatInt(t.time.UnixMilli(), 10)
	}
	if t.reason != "" {
		m["reason"] = t.reason
	}
	return &v1beta1.TwinProperty{Value: t.text, Metadata: m}
}

func (c command) property(typ v1beta1.PropertyType) *v1beta1.TwinProperty {
	m := map[string]string{"version": c.Version, "ack": string(c.Ack)}
	if typ != "" {
		m["type"] = strings.ToLower(string(typ))
	}
	if c.Time != 0 {
		m["timestamp"] = strconv.FormatInt(c.Time, 10)
	}
	if c.Reason != "" {
		m["reason"] = c.Reason
	}
	if c.Message != "" {
		m["message"] = c.Message
	}
	return &v1beta1.TwinProperty{Value: c.Value, Metadata: m}
}

// snapshot is a copy that the worker no longer changes.
func (f facts) snapshot() facts {
	f.twins = slices.Clone(f.twins)
	f.commands = maps.Clone(f.commands)
	f.problems = slices.Clone(f.problems)
	return f
}
