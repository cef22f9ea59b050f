package codec

import (
	"errors"
	"testing"

	"pgregory.net/rapid"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
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
		{"STRING", holding(0, "limit", 2), " ab ", "ab"},
		{"STRING", holding(0, "limit", 2, "trim", false), " ab ", " ab "},
		{"BYTES", holding(0, "limit", 1), "00D7", "00d7"},
		{"INT", visitor("CoilRegister", 0, nil), "1.0", "1"},
		{"INT", visitor("CoilRegister", 0, nil), "2", ""},
		{"INT", visitor("CoilRegister", 0, []any{"limit", 4, "scale", 2}), "30", "30"},
		{"INT", visitor("CoilRegister", 0, []any{"limit", 4, "scale", 2}), "31", ""},
	} {
		p := mustRead(t, c.typ, c.visitor)
		data, err := p.Encode(c.value, make([]byte, 2*p.Count))
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
		if v, err := p.Decode(data, p.Address); err != nil || v.String() != c.back {
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
		p, err := read(typ, visitor)
		if err != nil {
			return
		}
		value := rapid.StringMatching(`-?[0-9]{1,19}(\.[0-9]{1,3})?`).Draw(t, "value")
		data, err := p.Encode(value, nil)
		if err != nil {
			return
		}
		v, err := p.Decode(data, 0)
		if err != nil {
			t.Fatalf("%v: %s is written as %x, which is no value: %v", visitor, value, data, err)
		}
		want, _ := decimal(value)
		got, ok := decimal(v.String())
		f, _ := want.Float64()
		g, _ := got.Float64()
		if near := p.encoding.form == formFloat && typ != v1beta1.INT && (f-g)*(f-g) <= 1e-6*f*f; !ok || want.Cmp(got) != 0 && (typ == v1beta1.INT || f != g) && !near {
			t.Fatalf("%v: %s is written as %x, which is %s", visitor, value, data, v)
		}
	})
}
