package codec

import (
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// The values are those of public register maps and reports: Fronius' model 103 at night and by
// day, Deye's counter at 78 and 80, and a Schneider meter's clock.
func TestRegisterMaps(t *testing.T) {
	power := map[string]any{"offset": 100, "dataType": "uint16", "scaleRegister": 101}
	counter := map[string]any{"registers": []any{80, 78}, "offset": nil, "dataType": "uint32", "scale": 0.1}
	mode := map[string]any{"values": map[string]any{"1": "Off", "2": "Sleeping", "4": "MPPT"}}
	checkSettings(t, []settingsCase{
		{"FLOAT", nil, power, "1999 fffe", "65.53"},
		{"FLOAT", nil, power, "028f ffff", "65.5"},
		{"FLOAT", nil, power, "028f 0000", "655"},
		{"FLOAT", nil, power, "028f 0003", "655000"},
		{"FLOAT", nil, power, "1999 8000", "!NotAvailable"},
		{"FLOAT", nil, power, "1999 000b", "!NotAnExponent"},
		{"FLOAT", map[string]any{"notAvailable": "sunspec"}, power, "ffff fffe", "!NotAvailable"},
		{"FLOAT", nil, map[string]any{"offset": 100, "dataType": "int16", "scaleRegister": 98, "scale": 2}, "ffff 0000 fff6", "-2"},
		{"FLOAT", nil, map[string]any{"offset": 71, "dataType": "uint16", "scaleRegister": 72, "checkRegister": 69, "checkValue": []any{101, 103}}, "0067 0032 04d2 fffe", "12.34"},
		{"FLOAT", nil, map[string]any{"offset": 71, "dataType": "uint16", "scaleRegister": 72, "checkRegister": 69, "checkValue": "101, 103"}, "0071 003c 4366 0000", "!CheckRegisterDiffers"},
		{"INT", nil, map[string]any{"offset": 71, "checkRegister": 73, "checkValue": "0x8000"}, "0007 0000 8000", "7"},
		{"DOUBLE", nil, map[string]any{"offset": 93, "dataType": "uint32", "scaleRegister": 95}, "0001 86a1 fffd", "100.001"},
		{"FLOAT", nil, counter, "06ee 1388 0000", "177.4"},
		{"FLOAT", nil, counter, "06ee 1388 0001", "6731"},
		{"FLOAT", nil, map[string]any{"registers": "78,80", "isRegisterSwap": true, "offset": nil, "dataType": "uint32", "scale": 0.1}, "06ee 1388 0001", "6731"},
		{"INT", nil, map[string]any{"registers": "3,1,2,0", "offset": nil, "dataType": "uint64"}, "0004 0002 0003 0001", "281483566841860"},
		{"INT", map[string]any{"addressing": "modicon"}, map[string]any{"registers": "40002,40001", "offset": nil, "dataType": "uint32"}, "0001 0002", "131073"},
		{"INT", nil, map[string]any{"bits": "4-6"}, "0561", "6"},
		{"INT", nil, map[string]any{"bits": "8-11"}, "0561", "5"},
		{"INT", nil, map[string]any{"bits": "4-6", "dataType": "int16"}, "0561", "-2"},
		{"INT", nil, map[string]any{"bits": "31", "dataType": "uint32", "isRegisterSwap": true}, "0000 8000", "1"},
		{"STRING", nil, mode, "0004", "MPPT"},
		{"STRING", nil, mode, "0003", "3"},
		{"STRING", nil, map[string]any{"values": `0=auto, 6=manual`, "bits": "4-6"}, "0561", "manual"},
		{"STRING", nil, map[string]any{"register": "CoilRegister", "values": "0=stopped, 1=running"}, "0100", "running"},
		{"STRING", nil, map[string]any{"bitNames": "0=GROUND_FAULT, 1=DC_OVER_VOLT", "dataType": "uint32"}, "0000 0083", "GROUND_FAULT,DC_OVER_VOLT,bit7"},
		{"STRING", nil, map[string]any{"bitNames": "0=GROUND_FAULT"}, "0000", ""},
		{"STRING", nil, map[string]any{"limit": 8}, hex.EncodeToString([]byte("SDM630 M        ")), "SDM630 M"},
		{"STRING", nil, map[string]any{"limit": 4}, hex.EncodeToString([]byte(" LEAD\x00xx")), "LEAD"},
		{"STRING", nil, map[string]any{"limit": 4, "trim": false}, hex.EncodeToString([]byte(" LEAD  \x00")), " LEAD  "},
		{"STRING", nil, map[string]any{"limit": 4, "charset": "utf-16"}, "004b 00e4 20ac 0000", "Kä€"},
		{"STRING", nil, map[string]any{"limit": 2, "charset": "latin1"}, "c3a4 0000", "Ã¤"},
		{"STRING", nil, map[string]any{"dataType": "unix"}, "6926 e6c0", "2025-11-26T11:38:40Z"},
		{"STRING", nil, map[string]any{"dataType": "unix"}, "0000 0000", "!NotATime"},
		{"STRING", nil, map[string]any{"dataType": "unixMilli"}, "0000 019a bfdb 9bff", "2025-11-26T11:10:31.935Z"},
		{"STRING", nil, map[string]any{"dataType": "iec870"}, "0019 0b7a 0b26 9c40", "2025-11-26T11:38:40"},
		{"STRING", nil, map[string]any{"dataType": "iec870"}, "0000 0000 0000 0000", "!NotATime"},
		{"STRING", nil, map[string]any{"dataType": "datetime6"}, "07e9 000b 001a 000b 0026 0028", "2025-11-26T11:38:40"},
		{"STRING", nil, map[string]any{"dataType": "datetime3"}, "190b 1a0b 2628", "2025-11-26T11:38:40"},
		{"STRING", nil, map[string]any{"dataType": "datetime3"}, "190d 1a0b 2628", "!NotATime"},
	})
}

// What is written has the scale that the device has, and leaves everything else as it is.
func TestWritesOfRegisterMaps(t *testing.T) {
	for _, c := range []struct {
		typ     v1beta1.PropertyType
		visitor map[string]any
		before  string
		value   string
		address int
		payload string // empty: rejected
	}{
		{"FLOAT", map[string]any{"offset": 100, "dataType": "uint16", "scaleRegister": 103}, "0000 aaaa bbbb fffe", "65.53", 100, "1999"},
		{"FLOAT", map[string]any{"offset": 100, "dataType": "uint16", "scaleRegister": 103}, "0000 aaaa bbbb ffff", "65.53", 100, ""},
		{"FLOAT", map[string]any{"offset": 100, "dataType": "uint16", "scaleRegister": 103}, "0000 aaaa bbbb 8000", "65.53", 100, ""},
		{"FLOAT", map[string]any{"offset": 100, "dataType": "uint16", "scaleRegister": 98}, "ffff aaaa 0000", "-0.1", 100, ""},
		{"INT", map[string]any{"offset": 100, "checkRegister": 98, "checkValue": "7, 8"}, "0008 aaaa 0000", "3", 100, "0003"},
		{"INT", map[string]any{"offset": 100, "checkRegister": 98, "checkValue": "7, 8"}, "0009 aaaa 0000", "3", 100, ""},
		{"INT", map[string]any{"registers": "11,10", "offset": nil, "dataType": "uint32"}, "0000 0000", "65538", 10, "0002 0001"},
		{"INT", map[string]any{"bits": "4-6"}, "0561", "3", 0, "0531"},
		{"INT", map[string]any{"bits": "4-6"}, "0561", "8", 0, ""},
		{"INT", map[string]any{"bits": "4-6", "dataType": "int16"}, "0561", "-1", 0, "0571"},
		{"INT", map[string]any{"bits": "12-19", "dataType": "uint32"}, "ffff ffff", "0", 0, "fff0 0fff"},
		{"STRING", map[string]any{"values": "1=Off, 4=MPPT"}, "0000", "mppt", 0, "0004"},
		{"STRING", map[string]any{"values": "1=Off, 4=MPPT"}, "0000", "4", 0, "0004"},
		{"STRING", map[string]any{"values": "1=Off, 4=MPPT"}, "0000", "7", 0, "0007"},
		{"STRING", map[string]any{"values": "1=Off, 4=MPPT"}, "0000", "MPP", 0, ""},
		{"STRING", map[string]any{"values": "0=stopped, 1=running", "dataType": "bool"}, "0000", "running", 0, "0001"},
		{"STRING", map[string]any{"bitNames": "0=a, 1=b"}, "0000", "b, bit7", 0, "0082"},
		{"STRING", map[string]any{"bitNames": "0=a, 1=b"}, "0000", "c", 0, ""},
		{"STRING", map[string]any{"limit": 3}, "0000 0000 0000", "AB", 0, "4142 0000 0000"},
		{"STRING", map[string]any{"limit": 3, "padding": "blank"}, "0000 0000 0000", "AB", 0, "4142 2020 2020"},
		{"STRING", map[string]any{"limit": 3, "charset": "utf-16"}, "0000 0000 0000", "Ä€", 0, "00c4 20ac 0000"},
		{"STRING", map[string]any{"limit": 3, "charset": "latin1"}, "0000 0000 0000", "€", 0, ""},
		{"STRING", map[string]any{"dataType": "unix"}, "0000 0000", "2025-11-26T12:38:40+01:00", 0, "6926 e6c0"},
		{"STRING", map[string]any{"dataType": "iec870"}, "0000 0000 0000 0000", "2025-11-26T11:38:40", 0, "0019 0b7a 0b26 9c40"},
		{"STRING", map[string]any{"dataType": "datetime3"}, "0000 0000 0000", "1999-11-26T11:38:40", 0, ""},
		{"STRING", map[string]any{"dataType": "datetime3"}, "0000 0000 0000", "tomorrow", 0, ""},
	} {
		p, err := readSettings(c.typ, nil, c.visitor)
		if err != nil {
			t.Errorf("%v: %v", c.visitor, err)
			continue
		}
		before, err := hex.DecodeString(strings.ReplaceAll(c.before, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		want, err := p.Encode(c.value, before)
		var no *devices.Rejection
		switch {
		case c.payload == "" && errors.As(err, &no):
			continue
		case c.payload == "" || err != nil:
			t.Errorf("%v %s: %x, %v", c.visitor, c.value, want, err)
			continue
		}
		at, data := p.Payload(want)
		if hex.EncodeToString(data) != strings.ReplaceAll(c.payload, " ", "") || at != c.address {
			t.Errorf("%v %s: %x at %d, want %s at %d", c.visitor, c.value, data, at, c.payload, c.address)
		}
		if !p.Same(want, want) || p.Same(want, before) {
			t.Errorf("%v: compared wrongly with %x", c.visitor, want)
		}
	}
	// A text is compared by its value: a device may pad it as it likes.
	p, err := readSettings("STRING", nil, map[string]any{"limit": 2})
	if err != nil || !p.Same([]byte("AB\x00\x00"), []byte("AB  ")) || p.Same([]byte("AB\x00\x00"), []byte("AC  ")) {
		t.Error(err)
	}
	// A value with a scale is compared by its value, and not by what lies between.
	p, err = readSettings("FLOAT", nil, map[string]any{"offset": 0, "dataType": "int16", "scaleRegister": 2})
	if err != nil || !p.Same([]byte{0, 10, 0, 0, 0xff, 0xff}, []byte{0, 1, 7, 7, 0, 0}) || p.Same([]byte{0, 10, 0, 0, 0, 0}, []byte{0, 1, 0, 0, 0, 0}) {
		t.Error(err)
	}
}

func TestIllegalRegisterMaps(t *testing.T) {
	for _, c := range []struct {
		typ     v1beta1.PropertyType
		visitor map[string]any
		says    string
	}{
		{"FLOAT", map[string]any{"dataType": "uint16", "scaleRegister": 0}, "scaleRegister"},
		{"FLOAT", map[string]any{"dataType": "uint16", "scaleRegister": 70000}, "scaleRegister"},
		{"BOOLEAN", map[string]any{"scaleRegister": 1}, "scaleRegister"},
		{"STRING", map[string]any{"limit": 2, "scaleRegister": 9}, "scaleRegister"},
		{"INT", map[string]any{"bits": "1-2", "scaleRegister": 9}, "scaleRegister"},
		{"INT", map[string]any{"register": "CoilRegister", "scaleRegister": 9}, "scaleRegister"},
		{"INT", map[string]any{"checkRegister": 9}, "needs checkValue"},
		{"INT", map[string]any{"checkValue": 9}, "needs checkRegister"},
		{"INT", map[string]any{"checkRegister": 9, "checkValue": "1, 65536"}, "65536"},
		{"INT", map[string]any{"checkRegister": 65536, "checkValue": 1}, "checkRegister"},
		{"INT", map[string]any{"register": "CoilRegister", "checkRegister": 9, "checkValue": 1}, "checkRegister"},
		{"INT", map[string]any{"registers": "1,2"}, "registers"}, // together with offset
		{"INT", map[string]any{"registers": "1,1", "offset": nil, "dataType": "uint32"}, "twice"},
		{"INT", map[string]any{"registers": "1,2,3", "offset": nil, "dataType": "uint32"}, "limit"},
		{"INT", map[string]any{"registers": "1,x", "offset": nil}, "registers"},
		{"INT", map[string]any{"registers": "1,2", "offset": nil, "limit": 3}, "limit"},
		{"INT", map[string]any{"bits": "6-4"}, "bits"},
		{"INT", map[string]any{"bits": "4-16"}, "bits"},
		{"INT", map[string]any{"bits": "4-6", "bit": 1}, "bit"},
		{"FLOAT", map[string]any{"bits": "4-6", "dataType": "float32"}, "bits"},
		{"INT", map[string]any{"values": "0=off"}, "STRING"},
		{"STRING", map[string]any{"values": "0=off", "dataType": "string", "limit": 2}, "integers"},
		{"FLOAT", map[string]any{"scaleRegister": 9}, "dataType"},
		{"STRING", map[string]any{"values": "0=off", "dataType": "uint16", "scale": 2}, "scale"},
		{"STRING", map[string]any{"values": "0=off", "bitNames": "0=a"}, "bitNames"},
		{"STRING", map[string]any{"values": "0=1"}, "another number"},
		{"STRING", map[string]any{"bitNames": "64=a"}, "64"},
		{"INT", map[string]any{"dataType": "unix"}, "STRING"},
		{"STRING", map[string]any{"dataType": "iec870", "limit": 2}, "limit"},
		{"STRING", map[string]any{"limit": 2, "charset": "ebcdic"}, "charset"},
	} {
		_, err := readSettings(c.typ, nil, c.visitor)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s %v: %v", c.typ, c.visitor, err)
		}
	}
}

// Whatever the settings, what is written decodes to what is wanted, and what does not belong to
// the point keeps its bits.
func TestSparsePointsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.SampledFrom([]int{1, 2, 3, 4}).Draw(t, "registers")
		first := rapid.IntRange(0, 20).Draw(t, "first")
		order := rapid.Permutation([]int{0, 1, 2, 3}[:n]).Draw(t, "order")
		var list []any
		for _, i := range order {
			list = append(list, first+i)
		}
		factor := rapid.IntRange(0, 30).Draw(t, "factor")
		if factor >= first && factor < first+n {
			return
		}
		typ := map[int]string{1: "uint16", 2: "uint32", 3: "uint48", 4: "uint64"}[n]
		p, err := readSettings("DOUBLE", nil, map[string]any{"registers": list, "offset": nil, "dataType": typ, "scaleRegister": factor})
		if err != nil {
			t.Fatal(err)
		}
		before := rapid.SliceOfN(rapid.Byte(), 2*p.Count, 2*p.Count).Draw(t, "before")
		exponent := rapid.IntRange(-mostExponent, mostExponent).Draw(t, "exponent")
		before[2*(factor-p.Address)], before[2*(factor-p.Address)+1] = byte(uint16(exponent)>>8), byte(exponent)
		v, err := p.Decode(before, p.Address)
		if err != nil {
			t.Fatal(err)
		}
		raw := rapid.Uint64Range(0, 1<<16-1).Draw(t, "raw")
		e, err := p.scaled(before)
		if err != nil {
			t.Fatal(err)
		}
		wanted, err := e.unsigned(raw)
		if err != nil {
			t.Fatal(err)
		}
		want, err := p.Encode(wanted.String(), before)
		if err != nil {
			t.Fatalf("%s (now %s): %v", wanted, v, err)
		}
		at, data := p.Payload(want)
		if at != first || len(data) != 2*n {
			t.Fatalf("writes %d bytes at %d", len(data), at)
		}
		for i := range p.Count {
			if a := p.Address + i; (a < first || a >= first+n) && (want[2*i] != before[2*i] || want[2*i+1] != before[2*i+1]) {
				t.Fatalf("register %d changes", a)
			}
		}
	})
}
