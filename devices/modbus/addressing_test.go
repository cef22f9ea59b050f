package modbus

import (
	"testing"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/modbus/codec"
	"github.com/petiole-io/petiole/internal/polltest"
)

// Pain 12: manuals count from 0, from 1, or as 4xxxx.
func TestPain12AddressesAsManualsCount(t *testing.T) {
	for _, c := range []struct {
		addressing, register string
		offset               any
		table                codec.Table
		address              int
		wrong                bool
	}{
		{"zero", "HoldingRegister", 7, codec.Holdings, 7, false},
		{"one", "HoldingRegister", 8, codec.Holdings, 7, false},
		{"one", "CoilRegister", "1", codec.Coils, 0, false},
		{"modicon", "", 40008, codec.Holdings, 7, false},
		{"modicon", "HoldingRegister", "400008", codec.Holdings, 7, false},
		{"4xxxx", "", 30001, codec.Inputs, 0, false},
		{"modicon", "", 10005, codec.Discretes, 4, false},
		{"modicon", "", "00003", codec.Coils, 2, false},
		{"modicon", "", 3, codec.Coils, 2, false},
		{"modicon", "", "000003", codec.Coils, 2, false},
		{"modicon", "", 465536, codec.Holdings, 65535, false},
		{"MODICON", "", 365536, codec.Inputs, 65535, false},
		{"one", "HoldingRegister", 0, 0, 0, true},
		{"one", "HoldingRegister", 65536, codec.Holdings, 65535, false},
		{"modicon", "", 40000, 0, 0, true},
		{"modicon", "InputRegister", 40001, 0, 0, true},
		{"modicon", "", 20001, 0, 0, true},
		{"modicon", "", 50001, 0, 0, true},
		{"zero", "", 40001, 0, 0, true},
	} {
		for _, level := range []string{"device", "property"} {
			dev, visitor := map[string]any{"ip": "h"}, map[string]any{"offset": c.offset, "register": c.register}
			if level == "device" {
				dev["addressing"] = c.addressing
			} else {
				visitor["addressing"] = c.addressing
			}
			s, err := parseSettings(devices.Merge(dev))
			if err != nil {
				t.Fatal(err)
			}
			p, err := parsePoint(0, devices.Point{Type: "INT", Visitor: devices.Merge(visitor)}, s)
			if (err != nil) != c.wrong {
				t.Errorf("%+v: %v", c, err)
			}
			if err == nil && (p.Table != c.table || p.Address != c.address) {
				t.Errorf("%+v: %s %d", c, p.Table, p.Address)
			}
		}
	}
	s := newSlave(t)
	s.set(1, codec.Holdings, 7, 77)
	r := newRig(t)
	r.apply("d", s.addr, map[string]any{"addressing": "modicon"}, prop{name: "x", typ: "INT", visitor: map[string]any{"address": 40008}, cycle: 20})
	polltest.Eventually(t, "value", func() bool { return r.sink.reported("d", "x") == "77" })
}

// Pain 15: texts in one byte of each register, gateways that read coils only from the
// first, floats that are not IEEE's.
func TestPain15OddLayouts(t *testing.T) {
	s := newSlave(t)
	s.set(1, codec.Holdings, 0, 'P', 'u', 'm', 'p', 0)
	s.set(1, codec.Holdings, 10, 'P'<<8, 'u'<<8, 'm'<<8, 'p'<<8, 0)
	s.set(1, codec.Holdings, 20, 0xfd01, 0xe240, 0xfdfe, 0x1dc0) // a power meter's manual: 123456·10⁻³, −123456·10⁻³
	s.set(1, codec.Holdings, 30, 1234, 5678)
	s.set(1, codec.Holdings, 40, 0xffff, 0xd8f1) // −1, −9999
	for i := range 40 {
		s.set(1, codec.Coils, i, uint16(i%3&1))
	}
	r := newRig(t)
	r.apply("d", s.addr, map[string]any{"readCoilsFromZero": "true"},
		prop{name: "low", typ: "STRING", visitor: holding(0, "limit", 5, "packing", "low"), cycle: 20},
		prop{name: "high", typ: "STRING", visitor: holding(10, "limit", 5, "packing", "high"), cycle: 20},
		prop{name: "t5", typ: "DOUBLE", visitor: holding(20, "dataType", "T5"), cycle: 20},
		prop{name: "t6", typ: "DOUBLE", visitor: holding(22, "dataType", "T6"), cycle: 20, desired: "-99.5"},
		prop{name: "mod", typ: "INT", visitor: holding(30, "dataType", "mod10k"), cycle: 20},
		prop{name: "negative", typ: "INT", visitor: holding(40, "dataType", "mod10k"), cycle: 20},
		prop{name: "coil", typ: "BOOLEAN", visitor: visitor("CoilRegister", 37, nil), cycle: 20},
	)
	for property, want := range map[string]string{"low": "Pump", "high": "Pump", "t5": "123.456", "t6": "-99.5", "mod": "12345678", "negative": "-19999", "coil": "true"} {
		polltest.Eventually(t, property, func() bool { return r.sink.reported("d", property) == want })
	}
	polltest.Eventually(t, "ack", func() bool { return r.sink.ack("d", "t6") == "applied" })
	for _, q := range s.requests() {
		if q.table == codec.Coils && q.start != 0 {
			t.Fatal(q)
		}
	}
}

// With signed off, which is the default, INT is read as KubeEdge's mappers read it.
func TestIntegersAreUnsignedUnlessSaidOtherwise(t *testing.T) {
	for _, c := range []struct {
		typ     v1beta1.PropertyType
		dev     map[string]any
		visitor map[string]any
		want    string
	}{
		{"INT", nil, nil, "65436"},
		{"INT", nil, map[string]any{"dataType": "int"}, "65436"},
		{"INT", nil, map[string]any{"dataType": "int16"}, "-100"},
		{"INT", nil, map[string]any{"signed": true}, "-100"},
		{"INT", map[string]any{"signed": "true"}, nil, "-100"},
		{"INT", map[string]any{"signed": "true"}, map[string]any{"signed": false}, "65436"},
		{"INT", map[string]any{"signed": true}, map[string]any{"dataType": "uint16"}, "65436"},
		{"FLOAT", nil, map[string]any{"dataType": "float", "limit": 1, "scale": 0.1}, "6543.6"},
		{"FLOAT", nil, map[string]any{"dataType": "float", "limit": 1, "scale": 0.1, "signed": true}, "-10"},
		{"DOUBLE", map[string]any{"signed": true}, map[string]any{"dataType": "double", "limit": 1, "scale": 0.1}, "-10"},
		{"FLOAT", nil, map[string]any{"limit": 1, "scale": 0.1}, "-10"},
		{"FLOAT", nil, map[string]any{"limit": 1, "scale": 0.1, "signed": false}, "6543.6"},
	} {
		dev, visitor := map[string]any{"ip": "h"}, map[string]any{"register": "HoldingRegister", "offset": 0}
		for k, v := range c.dev {
			dev[k] = v
		}
		for k, v := range c.visitor {
			visitor[k] = v
		}
		s, err := parseSettings(devices.Merge(dev))
		if err != nil {
			t.Fatal(err)
		}
		p, err := parsePoint(0, devices.Point{Type: c.typ, Visitor: devices.Merge(visitor)}, s)
		if err != nil {
			t.Fatal(err)
		}
		if v, err := p.Decode([]byte{0xff, 0x9c}, 0); err != nil || v.String() != c.want {
			t.Errorf("%+v: %s %v", c, v, err)
		}
	}
}
