package modbus

import (
	"strings"
	"testing"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// Ambiguous settings are reported, and the plain names are not.
func TestAmbiguousSettings(t *testing.T) {
	for _, c := range []struct {
		typ     v1beta1.PropertyType
		visitor map[string]any
		says    string // empty: nothing
	}{
		{"FLOAT", holding(0, "dataType", "float", "limit", 1, "scale", 0.1), "unsigned 16-bit"},
		{"DOUBLE", holding(0, "dataType", "double", "limit", 1), "unsigned 16-bit"},
		{"FLOAT", holding(0, "dataType", "float", "limit", 1, "signed", false), ""},
		{"FLOAT", holding(0, "limit", 1, "scale", 0.1), "signed 16-bit"},
		{"FLOAT", holding(0, "dataType", "int16", "scale", 0.1), ""},
		{"FLOAT", holding(0, "dataType", "float16"), ""},
		{"FLOAT", holding(0, "dataType", "float", "scale", 0.1), "limit 1"},
		{"FLOAT", holding(0, "dataType", "float", "limit", 2, "scale", 0.1), ""},
		{"FLOAT", holding(0, "dataType", "float", "limit", 4), "float64"},
		{"DOUBLE", holding(0, "dataType", "double", "limit", 2), "float32"},
		{"FLOAT", holding(0, "dataType", "int", "limit", 1, "scale", 0.1), "unsigned whole number"},
		{"INT", holding(0, "scale", 0.1), "rounded"},
		{"INT", holding(0, "scale", 10), ""},
		{"INT", holding(0, "dataType", "float32"), "rounded"},
		{"INT", holding(0, "dataType", "long"), "64 bits"},
		{"STRING", holding(0, "limit", 1), "two characters"},
		{"STRING", holding(0, "limit", 4), ""},
		{"BOOLEAN", holding(0, "scale", 0.1), "do not change a boolean"},
		{"BOOLEAN", visitor("CoilRegister", 0, []any{"scale", 1, "isSwap", true, "dataType", "bool"}), ""},
		{"INT", visitor("CoilRegister", 0, []any{"scale", 0.1}), "do not change a boolean"},
		{"INT", visitor("CoilRegister", 0, []any{"limit", 16, "isSwap", true}), "the first bit"},
		{"INT", holding(0, "max", 100), "maximum in the model"},
	} {
		def := devices.Definition{Config: devices.Settings{"ip": "h"}, Points: []devices.Point{{Name: "p", Type: c.typ, Writable: true, Cycle: 1, Visitor: devices.Merge(c.visitor)}}}
		_, found := Describe(def)
		switch {
		case c.says == "" && len(found) == 0:
		case c.says != "" && len(found) == 1 && found[0].Warning && found[0].Reason == devices.ReasonAmbiguous && strings.Contains(found[0].Message, c.says):
		default:
			t.Errorf("%s %v: %+v", c.typ, c.visitor, found)
		}
	}
	// Negative numbers that the registers do not have.
	for minimum, want := range map[string]int{"-40": 1, "-39.9": 1, "0": 0, "": 0} {
		_, found := Describe(devices.Definition{Config: devices.Settings{"ip": "h"}, Points: []devices.Point{
			{Name: "unsigned", Type: "INT", Minimum: minimum, Cycle: 1, Visitor: devices.Merge(holding(0))},
			{Name: "signed", Type: "INT", Minimum: minimum, Cycle: 1, Visitor: devices.Merge(holding(1, "signed", true))},
			{Name: "offset", Type: "FLOAT", Minimum: minimum, Cycle: 1, Visitor: devices.Merge(holding(2, "dataType", "uint16", "valueOffset", -40))},
		}})
		if len(found) != want || want == 1 && (found[0].Property != "unsigned" || !strings.Contains(found[0].Message, minimum)) {
			t.Errorf("minimum %q: %+v", minimum, found)
		}
	}
	// A scale that would change a boolean is refused.
	_, err := parsePoint(0, devices.Point{Type: "FLOAT", Visitor: devices.Merge(visitor("CoilRegister", 0, []any{"scale", 0.1}))}, settings{maxRegisters: 125, maxBits: 2000})
	if err == nil || !strings.Contains(err.Error(), "boolean") {
		t.Error(err)
	}
}
