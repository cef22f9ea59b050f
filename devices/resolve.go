package devices

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

const (
	defaultCycle = time.Second
	// shortestCycle bounds the CPU time that a mistyped period can cost.
	shortestCycle = time.Millisecond
	// suspiciousCycle is a period in milliseconds above which nanoseconds were most likely
	// meant.
	suspiciousCycle = 24 * time.Hour
)

// AnnotationDisabled on a Device, with the value true, disables the device: it is neither
// read nor written until the annotation is removed.
const AnnotationDisabled = "petiole.dev/disabled"

// Resolve merges a device with its model and returns all problems of both. The model's
// settings are defaults: the device's override them, key by key. A property with a problem
// is left out; a problem without a property concerns the whole device. It is a pure function
// and never panics.
func Resolve(d *v1beta1.Device, m *v1beta1.DeviceModel) (Definition, []Desired, []Problem) {
	desired := desiredOf(d)
	def := Definition{
		Device: RefOf(d), Protocol: strings.TrimSpace(d.Spec.Protocol.ProtocolName), Methods: d.Spec.Methods, Object: d, Model: m,
	}
	def.Disabled, _ = ParseBool(d.Annotations[AnnotationDisabled])
	if m == nil {
		name := ""
		if d.Spec.DeviceModelRef != nil {
			name = d.Spec.DeviceModelRef.Name
		}
		return def, desired, []Problem{{Reason: ReasonWaitingForModel, Message: fmt.Sprintf("waiting for model %q", name)}}
	}
	var problems []Problem
	if def.Protocol == "" {
		def.Protocol = strings.TrimSpace(m.Spec.Protocol)
	}
	if def.Protocol == "" {
		problems = append(problems, Problem{Reason: ReasonUnknownProtocol, Message: "protocol.protocolName is empty"})
	}
	config := Merge(data(m.Spec.ProtocolConfigData), data(d.Spec.Protocol.ConfigData))
	own, config := config.split(append([]string{statusIntervalSetting}, propertySettings...)...)
	def.Config = config
	report, err := stateReportingOf(d, own)
	_, _, errDefaults := reportingOf(defaultCycle, own, nil)
	if err := errors.Join(err, errDefaults); err != nil {
		problems = append(problems, Problem{Reason: ReasonInvalidReporting, Message: err.Error()})
	}
	def.Report = report
	def.Points, problems = resolvePoints(d, m, def.Protocol, own, problems)
	for i := range desired {
		desired[i].writing(writingOfProperty(def.Points, desired[i].Property))
	}
	return def, desired, problems
}

func resolvePoints(d *v1beta1.Device, m *v1beta1.DeviceModel, protocol string, own Settings, problems []Problem) ([]Point, []Problem) {
	models := make(map[string]*v1beta1.ModelProperty, len(m.Spec.Properties))
	for i := range m.Spec.Properties {
		models[m.Spec.Properties[i].Name] = &m.Spec.Properties[i]
	}
	points := make([]Point, 0, len(d.Spec.Properties))
	used := make(map[string]bool, len(d.Spec.Properties))
	for i := range d.Spec.Properties {
		p := &d.Spec.Properties[i]
		point, warnings, problem := resolvePoint(protocol, own, p, models[p.Name])
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
		problems = append(problems, warnings...)
		used[p.Name] = true
		points = append(points, point)
	}
	return points, problems
}

func writingOfProperty(points []Point, property string) Writing {
	for _, p := range points {
		if p.Name == property {
			return p.Writing
		}
	}
	return Writing{Drift: DriftOnce}
}

func desiredOf(d *v1beta1.Device) []Desired {
	var desired []Desired
	used := map[string]bool{}
	for i := range d.Spec.Properties {
		p := &d.Spec.Properties[i]
		if p.Desired != nil && p.Desired.Value != "" && !used[p.Name] {
			w := Desired{Property: p.Name, Value: p.Desired.Value, Digest: desiredDigest(p.Desired)}
			w.metadata(p.Desired.Metadata)
			desired = append(desired, w)
		}
		used[p.Name] = true
	}
	return desired
}

func resolvePoint(protocol string, own Settings, p *v1beta1.DeviceProperty, m *v1beta1.ModelProperty) (point Point, warnings []Problem, problem *Problem) {
	if m == nil {
		return point, nil, &Problem{Reason: ReasonNotInModel, Message: "the model has no such property"}
	}
	point = Point{
		Name: p.Name, Type: v1beta1.PropertyType(strings.ToUpper(string(m.Type))), Minimum: m.Minimum, Maximum: m.Maximum, Unit: m.Unit,
		Writable: strings.EqualFold(string(m.AccessMode), string(v1beta1.ReadWrite)), Report: p.ReportToCloud, Push: p.PushMethod,
	}
	if point.Type == "" {
		point.Type = v1beta1.STRING
	}
	switch point.Type {
	case v1beta1.INT, v1beta1.FLOAT, v1beta1.DOUBLE, v1beta1.STRING, v1beta1.BOOLEAN, v1beta1.BYTES:
	case v1beta1.STREAM:
		return point, nil, &Problem{Reason: ReasonStream, Message: "properties of type STREAM are not read: mappers handle them"}
	default:
		return point, nil, invalid("type %q is not supported", m.Type)
	}
	for name, s := range map[string]string{"minimum": m.Minimum, "maximum": m.Maximum} {
		if _, ok := ParseNumber(s); s != "" && !ok {
			return point, nil, invalid("the model's %s %q is not a number", name, s)
		}
	}
	visitor, problem := visitorOf(protocol, p, m)
	if problem != nil {
		return point, nil, problem
	}
	for _, c := range []struct {
		name string
		ms   int64
		into *time.Duration
	}{{"collectCycle", p.CollectCycle, &point.Cycle}, {"reportCycle", p.ReportCycle, &point.ReportCycle}} {
		if c.ms < 0 {
			return point, nil, invalid("%s %d is negative", c.name, c.ms)
		}
		if c.ms > int64(suspiciousCycle/time.Millisecond) {
			warnings = append(warnings, Problem{
				Property: p.Name, Reason: ReasonSuspiciousPeriod,
				Message: fmt.Sprintf("%s %d is milliseconds and longer than a day", c.name, c.ms),
			})
		}
		*c.into = cycleOf(c.ms)
	}
	named, rest := visitor.split(propertySettings...)
	point.Visitor = rest
	var err error
	if point.Reporting, point.Writing, err = reportingOf(point.Cycle, own, named); err != nil && len(named) > 0 {
		warnings = append(warnings, Problem{Property: p.Name, Reason: ReasonInvalidReporting, Message: err.Error()})
	}
	point.Group = point.Writing.group
	return point, warnings, nil
}

// visitorOf merges the settings of a property.
func visitorOf(protocol string, p *v1beta1.DeviceProperty, m *v1beta1.ModelProperty) (Settings, *Problem) {
	var defaults, own map[string]any
	if m.Visitors != nil && sameProtocol(m.Visitors.ProtocolName, protocol) {
		defaults = data(m.Visitors.ConfigData)
	}
	if p.Visitors != nil {
		if !sameProtocol(p.Visitors.ProtocolName, protocol) {
			return nil, invalid("visitors are for protocol %q, the device uses %q", p.Visitors.ProtocolName, protocol)
		}
		own = data(p.Visitors.ConfigData)
	}
	return Merge(defaults, own), nil
}

// cycleOf converts milliseconds to a period; 0: the default.
func cycleOf(ms int64) time.Duration {
	if ms == 0 {
		return defaultCycle
	}
	return max(time.Duration(min(ms, int64(1<<62/time.Millisecond)))*time.Millisecond, shortestCycle)
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

// desiredDigest is equal for equal desired values and metadata.
func desiredDigest(p *v1beta1.TwinProperty) string { return digest(p) }

// Digest is equal for definitions that are the same for a driver.
func (d Definition) Digest() string {
	d.Object, d.Model = nil, nil
	return digest(d)
}

func digest(v any) string {
	b, err := json.Marshal(v) // map keys are sorted
	if err != nil {
		b = fmt.Appendf(nil, "%+v", v)
	}
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:12])
}

// ParseNumber parses a decimal number exactly.
func ParseNumber(s string) (*big.Rat, bool) {
	s = strings.TrimSpace(s)
	if len(s) > 64 || strings.ContainsAny(s, "/_xXpPbBoO") { // decimal only, and no huge exponents such as 1e999999999
		return nil, false
	}
	if i := strings.IndexAny(s, "eE"); i >= 0 && len(s)-i > 5 {
		return nil, false
	}
	return new(big.Rat).SetString(s)
}
