package codec

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// point returns the point of settings, and their errors.
func readSettings(typ v1beta1.PropertyType, device, visitor map[string]any) (Point, error) {
	r := devices.Merge(device).Read()
	d := ReadDefaults(r)
	v := devices.Merge(map[string]any{"register": "HoldingRegister", "offset": 0}, visitor).Read()
	p := Read(v, devices.Point{Type: typ, Visitor: devices.Settings{}}, d)
	if err := r.Err(); err != nil {
		return p, err
	}
	return p, v.Err()
}

// show decodes registers in hexadecimal: the value, or the reason why there is none.
func show(t *testing.T, p Point, registers string) string {
	t.Helper()
	data, err := hex.DecodeString(strings.ReplaceAll(registers, " ", ""))
	if err != nil || len(data) != 2*p.Count {
		t.Fatalf("%q has %d bytes, the point %d", registers, len(data), 2*p.Count)
	}
	v, err := p.Decode(data, p.Address)
	if err != nil {
		return "!" + err.Error()
	}
	return v.String()
}

type settingsCase struct {
	typ       v1beta1.PropertyType
	device    map[string]any
	visitor   map[string]any
	registers string
	want      string // "!" precedes the reason of a bad quality
}

func checkSettings(t *testing.T, cases []settingsCase) {
	t.Helper()
	for _, c := range cases {
		p, err := readSettings(c.typ, c.device, c.visitor)
		if err != nil {
			t.Errorf("%v %v: %v", c.device, c.visitor, err)
			continue
		}
		if got := show(t, p, c.registers); got != c.want {
			t.Errorf("%s %v %v %s: %s, want %s", c.typ, c.device, c.visitor, c.registers, got, c.want)
		}
	}
}

// The numbers are those of inverters at night: see SunSpec Information Model Specification,
// "Unimplemented Registers", and the manuals of Sungrow and Solplanet.
func TestNotAvailable(t *testing.T) {
	const missing = "!NotAvailable"
	sunspec := map[string]any{"notAvailable": "sunspec"}
	set := func(kv ...any) map[string]any {
		m := map[string]any{}
		for i := 0; i < len(kv); i += 2 {
			m[kv[i].(string)] = kv[i+1]
		}
		return m
	}
	checkSettings(t, []settingsCase{
		{"FLOAT", nil, set("dataType", "int16", "scale", 0.1), "8000", "-3276.8"},
		{"FLOAT", nil, set("dataType", "int16", "scale", 0.1, "notAvailable", "0x8000"), "8000", missing},
		{"FLOAT", nil, set("dataType", "int16", "scale", 0.1, "notAvailable", -32768), "8000", missing},
		{"FLOAT", nil, set("dataType", "int16", "scale", 0.1, "notAvailable", "0x8000"), "8001", "-3276.7"},
		{"INT", nil, set("dataType", "int32", "notAvailable", "0x7FFFFFFF"), "7fffffff", missing},
		{"INT", nil, set("dataType", "uint16", "notAvailable", []any{"0xFFFF", 65534}), "fffe", missing},
		{"INT", nil, set("dataType", "uint16", "notAvailable", "65535, 65534"), "ffff", missing},
		{"INT", nil, set("dataType", "uint32", "isRegisterSwap", true, "notAvailable", "0x8000"), "8000 0000", missing},
		{"FLOAT", nil, set("dataType", "float32", "notAvailable", -9999), "c61c3c00", missing},
		{"FLOAT", nil, set("dataType", "float32", "notAvailable", "0x7F7FFFFF"), "7f7fffff", missing},
		{"INT", nil, set("dataType", "bcd", "notAvailable", 9999), "9999", missing},
		{"INT", nil, set("dataType", "bcd", "notAvailable", "0xFFFF"), "ffff", missing},
		{"INT", nil, set("dataType", "uint8", "packing", "high", "notAvailable", "0xFF"), "ff00", missing},
		{"BOOLEAN", nil, set("bit", 3, "notAvailable", "0xFFFF"), "ffff", missing},
		{"INT", sunspec, set("dataType", "int16"), "8000", missing},
		{"INT", sunspec, set("dataType", "uint16"), "ffff", missing},
		{"INT", sunspec, set("dataType", "int16"), "ffff", "-1"},
		{"INT", sunspec, set("dataType", "int32"), "80000000", missing},
		{"INT", sunspec, set("dataType", "uint32"), "ffffffff", missing},
		{"INT", sunspec, set("dataType", "int64"), "8000000000000000", missing},
		{"INT", sunspec, set("dataType", "uint64"), "ffffffffffffffff", missing},
		{"FLOAT", sunspec, set("dataType", "float32"), "7fc00000", "!NotANumber"},
		{"STRING", sunspec, set("limit", 2), "00000000", missing},
		{"STRING", nil, set("limit", 2), "00000000", ""},
		{"INT", sunspec, set("dataType", "int16", "notAvailable", "none"), "8000", "-32768"},
		{"INT", sunspec, set("dataType", "uint32", "notAvailable", 0), "00000000", missing}, // a SunSpec accumulator
	})
	for _, v := range []map[string]any{
		set("dataType", "uint16", "notAvailable", "0x10000"), set("dataType", "uint16", "notAvailable", 65536), set("dataType", "int16", "notAvailable", -32769),
		set("dataType", "uint16", "notAvailable", "night"), set("dataType", "uint16", "notAvailable", 0.5), set("dataType", "bcd", "notAvailable", 10000),
		set("dataType", "uint16", "notAvailable", []any{map[string]any{}}), set("register", "CoilRegister", "notAvailable", 1),
	} {
		if _, err := readSettings("INT", nil, v); err == nil || !strings.Contains(err.Error(), "notAvailable") {
			t.Errorf("%v: %v", v, err)
		}
	}
	if _, err := readSettings("INT", set("notAvailable", "0x8000"), nil); err == nil {
		t.Error("a number for all properties of a device is accepted")
	}
	// What means "no value" is not written.
	p, err := readSettings("INT", sunspec, set("dataType", "uint16"))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := p.Encode("65535", nil); err == nil {
		t.Errorf("%x", b)
	}
	if _, err := p.Encode("65534", nil); err != nil {
		t.Error(err)
	}
}
