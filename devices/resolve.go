package devices

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

const (
	defaultCycle = time.Second
	// shortestCycle keeps a mistyped period from eating a processor.
	shortestCycle = time.Millisecond
	// suspiciousCycle is where a period in milliseconds was most likely meant in
	// nanoseconds.
	suspiciousCycle = 24 * time.Hour
)

// Resolve merges a device with its model and tells everything that is wrong. The
// model's settings are defaults: the device's win, key by key. A property with a
// problem is left out; a problem without a property concerns the whole device. It
// is pure and never panics.
func Resolve(d *v1beta1.Device, m *v1beta1.DeviceModel) (Definition, []Desired, []Problem) {
	desired := wanted(d)
	def := Definition{Device: refOf(d), Protocol: strings.TrimSpace(d.Spec.Protocol.ProtocolName)}
	var problems []Problem
	if m == nil {
		name := ""
		if d.Spec.DeviceModelRef != nil {
			name = d.Spec.DeviceModelRef.Name
		}
		return def, desired, []Problem{{Reason: ReasonWaitingForModel, Message: fmt.Sprintf("waiting for model %q", name)}}
	}
	if def.Protocol == "" {
		def.Protocol = strings.TrimSpace(m.Spec.Protocol)
	}
	if def.Protocol == "" {
		problems = append(problems, Problem{Reason: ReasonUnknownProtocol, Message: "protocol.protocolName is empty"})
	}
	def.Config = Merge(data(m.Spec.ProtocolConfigData), data(d.Spec.Protocol.ConfigData))

	models := make(map[string]*v1beta1.ModelProperty, len(m.Spec.Properties))
	for i := range m.Spec.Properties {
		models[m.Spec.Properties[i].Name] = &m.Spec.Properties[i]
	}
	used := map[string]bool{}
	for i := range d.Spec.Properties {
		p := &d.Spec.Properties[i]
		point, warning, problem := resolvePoint(def.Protocol, p, models[p.Name])
		if problem == nil && used[p.Name] {
			problem = &Problem{Reason: ReasonInvalidProperty, Message: "the property appears twice"}
		}
		if problem != nil {
			problem.Property = p.Name
			if p.Name == "" {
				problem.Property = fmt.Sprintf("properties[%d]", i)
			}
			problems = append(problems, *problem)
			continue
		}
		if warning != nil {
			problems = append(problems, *warning)
		}
		used[p.Name] = true
		def.Points = append(def.Points, point)
	}
	return def, desired, problems
}

// wanted are the desired values of a device, the first of each property. An empty
// value is no wish.
func wanted(d *v1beta1.Device) []Desired {
	var desired []Desired
	used := map[string]bool{}
	for i := range d.Spec.Properties {
		p := &d.Spec.Properties[i]
		if p.Desired != nil && p.Desired.Value != "" && !used[p.Name] {
			desired = append(desired, Desired{Property: p.Name, Value: p.Desired.Value, Mark: mark(p.Desired)})
		}
		used[p.Name] = true
	}
	return desired
}

func resolvePoint(protocol string, p *v1beta1.DeviceProperty, m *v1beta1.ModelProperty) (point Point, warning, problem *Problem) {
	if m == nil {
		return point, nil, &Problem{Reason: ReasonNotInModel, Message: "the model has no such property"}
	}
	point = Point{
		Name: p.Name, Type: v1beta1.PropertyType(strings.ToUpper(string(m.Type))), Minimum: m.Minimum, Maximum: m.Maximum, Unit: m.Unit,
		Writable: strings.EqualFold(string(m.AccessMode), string(v1beta1.ReadWrite)), Report: p.ReportToCloud, Cycle: defaultCycle,
	}
	if point.Type == "" {
		point.Type = v1beta1.STRING
	}
	switch point.Type {
	case v1beta1.INT, v1beta1.FLOAT, v1beta1.DOUBLE, v1beta1.STRING, v1beta1.BOOLEAN, v1beta1.BYTES:
	default:
		return point, nil, invalid("type %q is not supported", m.Type)
	}
	for name, s := range map[string]string{"minimum": m.Minimum, "maximum": m.Maximum} {
		if _, ok := parseNumber(s); s != "" && !ok {
			return point, nil, invalid("the model's %s %q is not a number", name, s)
		}
	}
	var defaults, own map[string]any
	if m.Visitors != nil && sameProtocol(m.Visitors.ProtocolName, protocol) {
		defaults = data(m.Visitors.ConfigData)
	}
	if p.Visitors != nil {
		if !sameProtocol(p.Visitors.ProtocolName, protocol) {
			return point, nil, invalid("visitors are for protocol %q, the device speaks %q", p.Visitors.ProtocolName, protocol)
		}
		own = data(p.Visitors.ConfigData)
	}
	point.Visitor = Merge(defaults, own)
	switch {
	case p.CollectCycle < 0:
		return point, nil, invalid("collectCycle %d is negative", p.CollectCycle)
	case p.CollectCycle > int64(suspiciousCycle/time.Millisecond):
		warning = &Problem{Property: p.Name, Reason: ReasonSuspiciousPeriod,
			Message: fmt.Sprintf("collectCycle %d is milliseconds and longer than a day", p.CollectCycle)}
		point.Cycle = time.Duration(min(p.CollectCycle, int64(1<<62/time.Millisecond))) * time.Millisecond
	case p.CollectCycle > 0:
		point.Cycle = max(time.Duration(p.CollectCycle)*time.Millisecond, shortestCycle)
	}
	return point, warning, nil
}

func invalid(format string, args ...any) *Problem {
	return &Problem{Reason: ReasonInvalidProperty, Message: fmt.Sprintf(format, args...)}
}

func data(v *v1beta1.CustomizedValue) map[string]any {
	if v == nil {
		return nil
	}
	return v.Data
}

func sameProtocol(a, b string) bool {
	return a == "" || b == "" || strings.EqualFold(strings.TrimSpace(a), b)
}

// mark is the same for the same desired value and metadata.
func mark(p *v1beta1.TwinProperty) string { return digest(p) }

// mark is the same for definitions that a driver cannot tell apart.
func (d Definition) mark() string { return digest(d) }

func digest(v any) string {
	b, err := json.Marshal(v) // map keys are sorted
	if err != nil {
		b = fmt.Appendf(nil, "%+v", v)
	}
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:12])
}

// parseNumber reads a decimal number exactly.
func parseNumber(s string) (*big.Rat, bool) {
	s = strings.TrimSpace(s)
	if len(s) > 64 || strings.ContainsAny(s, "/_xXpPbBoO") { // only decimal, and no bombs like 1e999999999
		return nil, false
	}
	if i := strings.IndexAny(s, "eE"); i >= 0 && len(s)-i > 5 {
		return nil, false
	}
	return new(big.Rat).SetString(s)
}
