package modbus

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/internal/polltest"
)

// What is written reads back as what is wanted, or is rejected before it is sent.
func TestWrittenIsWhatReadsBack(t *testing.T) {
	for _, c := range []struct {
		typ     v1beta1.PropertyType
		visitor map[string]any
		value   string
		back    string // empty: rejected
	}{
		{"INT", holding(0, "dataType", "float32"), "16777216", "16777216"},
		{"INT", holding(0, "dataType", "float32"), "16777217", ""}, // a float32 has 24 bits
		{"INT", holding(0, "dataType", "float16"), "2049", ""},
		{"DOUBLE", holding(0, "dataType", "float32"), "1e-50", ""}, // would be 0
		{"DOUBLE", holding(0, "dataType", "float32"), "0.1", "0.1"},
		{"FLOAT", holding(0, "dataType", "float16"), "21.51", "21.515625"}, // the nearest that there is
		{"FLOAT", holding(0, "dataType", "float", "limit", 1, "scale", 0.1), "42.5", "42.5"},
		{"FLOAT", holding(0, "dataType", "float", "limit", 1, "scale", 0.1), "42.50", "42.5"},
		{"FLOAT", holding(0, "dataType", "float", "limit", 1, "scale", 0.1), "42.55", ""},
		{"FLOAT", holding(0, "dataType", "float", "limit", 1, "scale", 0.1), "-1", ""},
		{"FLOAT", holding(0, "dataType", "float", "limit", 1, "scale", 0.1), "6553.6", ""},
		{"FLOAT", holding(0, "dataType", "double", "limit", 1, "signed", true), "-1", "-1"},
		{"INT", holding(0, "dataType", "uint64", "scale", 10), "184467440737095516150", ""}, // beyond 64 bits
		{"INT", holding(0, "dataType", "int64", "scale", 10), "9223372036854775800", "9223372036854775800"},
		{"INT", holding(0, "dataType", "int64", "scale", 3), "9007199254740993", "9007199254740993"}, // 2^53 + 1
		{"BOOLEAN", holding(0, "dataType", "float32", "valueOffset", 5), "false", "false"},
		{"BOOLEAN", holding(0, "scale", 0), "on", "true"},
		{"STRING", holding(0, "dataType", "uint16"), "0042", "42"},
		{"STRING", holding(0, "limit", 2), " ab ", " ab "},
		{"BYTES", holding(0, "limit", 1), "00D7", "00d7"},
		{"INT", visitor("CoilRegister", 0, nil), "1.0", "1"},
		{"INT", visitor("CoilRegister", 0, nil), "2", ""},
		{"INT", visitor("CoilRegister", 0, []any{"limit", 4, "scale", 2}), "30", "30"},
		{"INT", visitor("CoilRegister", 0, []any{"limit", 4, "scale", 2}), "31", ""},
	} {
		p := points(t, c.typ, c.visitor)
		data, err := p.encode(c.value, make([]byte, 2*p.count))
		if c.back == "" {
			var no *devices.Rejection
			if !errors.As(err, &no) {
				t.Errorf("%s %v: %s is written as %x", c.typ, c.visitor, c.value, data)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s %v %s: %v", c.typ, c.visitor, c.value, err)
			continue
		}
		if v, err := p.decode(data, p.address); err != nil || v.String() != c.back {
			t.Errorf("%s %v: %s reads back as %s, %v", c.typ, c.visitor, c.value, v, err)
		}
	}
}

// The same for any number and any settings that are accepted.
func TestAnyWrittenNumberReadsBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		typ := rapid.SampledFrom([]v1beta1.PropertyType{"INT", "FLOAT", "DOUBLE"}).Draw(t, "type")
		visitor := map[string]any{
			"register": rapid.SampledFrom([]string{"HoldingRegister", "CoilRegister"}).Draw(t, "register"), "offset": 0,
			"dataType": rapid.SampledFrom([]string{"", "int", "float", "double", "int16", "uint32", "int64", "uint64", "float16", "float32", "float64", "bcd", "t6", "mod10k", "bool"}).Draw(t, "dataType"),
			"limit":    rapid.SampledFrom([]int{0, 1, 2, 4}).Draw(t, "limit"), "scale": rapid.SampledFrom([]string{"0", "0.1", "10", "3", "-0.25"}).Draw(t, "scale"),
			"isSwap": rapid.Bool().Draw(t, "isSwap"), "isRegisterSwap": rapid.Bool().Draw(t, "isRegisterSwap"), "signed": rapid.Bool().Draw(t, "signed"),
		}
		p, err := parsePoint(0, devices.Point{Name: "p", Type: typ, Visitor: devices.Merge(visitor)}, settings{maxRegisters: 125, maxBits: 2000})
		if err != nil {
			return
		}
		value := rapid.StringMatching(`-?[0-9]{1,19}(\.[0-9]{1,3})?`).Draw(t, "value")
		data, err := p.encode(value, nil)
		if err != nil {
			return
		}
		v, err := p.decode(data, 0)
		if err != nil {
			t.Fatalf("%v: %s is written as %x, which is no value: %v", visitor, value, data, err)
		}
		want, _ := decimal(value)
		got, ok := decimal(v.String())
		f, _ := want.Float64()
		g, _ := got.Float64()
		if near := p.codec.form == formFloat && typ != v1beta1.INT && (f-g)*(f-g) <= 1e-6*f*f; !ok || want.Cmp(got) != 0 && (typ == v1beta1.INT || f != g) && !near {
			t.Fatalf("%v: %s is written as %x, which is %s", visitor, value, data, v)
		}
	})
}

// A register that is true already is not overwritten with another truth.
func TestDesiredTruthIsComparedAsOne(t *testing.T) {
	s := newSlave(t)
	s.set(1, holdings, 0, 5)
	r := newRig(t)
	d := r.apply("d", s.addr, nil, prop{name: "on", typ: "BOOLEAN", visitor: holding(0), cycle: 20, desired: "true"})
	polltest.Eventually(t, "applied", func() bool { return r.sink.ack("d", "on") == "applied" })
	if got := s.get(1, holdings, 0); got != 5 || s.writes() != 0 {
		t.Errorf("overwritten with %d", got)
	}
	r.desire(d, "on", "false")
	polltest.Eventually(t, "false", func() bool { return r.sink.ack("d", "on") == "applied" && s.get(1, holdings, 0) == 0 })
}

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
		case c.says != "" && len(found) == 1 && found[0].Warning && found[0].Reason == ReasonAmbiguous && strings.Contains(found[0].Message, c.says):
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
