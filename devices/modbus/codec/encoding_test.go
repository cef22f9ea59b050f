package codec

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// read reads the settings of a property of a device without settings of its own.
func read(typ v1beta1.PropertyType, visitor map[string]any) (Point, error) {
	r := devices.Merge(visitor).Read()
	p := Read(r, devices.Point{Name: "p", Type: typ}, Defaults{})
	return p, r.Err()
}

func mustRead(t interface{ Fatalf(string, ...any) }, typ v1beta1.PropertyType, visitor map[string]any) Point {
	p, err := read(typ, visitor)
	if err != nil {
		t.Fatalf("read %v: %v", visitor, err)
	}
	return p
}

func holding(at int, more ...any) map[string]any { return visitor("HoldingRegister", at, more) }

func visitor(register string, at int, more []any) map[string]any {
	v := map[string]any{"register": register, "offset": at}
	for i := 0; i+1 < len(more); i += 2 {
		v[more[i].(string)] = more[i+1]
	}
	return v
}

var orders = []string{"ABCD", "BADC", "CDAB", "DCBA"}

// Encoding what was decoded gives the same registers, for every type, order and
// scale: nothing is lost between register and string form.
func TestCodecIsExactlyInvertible(t *testing.T) {
	types := []struct {
		data  string
		typ   v1beta1.PropertyType
		words int
		scale []any
	}{
		{"int16", v1beta1.INT, 1, []any{0, 1, 10, -3}},
		{"uint16", v1beta1.INT, 1, []any{nil, "2"}},
		{"int32", v1beta1.INT, 2, []any{nil, 5}},
		{"uint32", v1beta1.INT, 2, []any{nil}},
		{"int64", v1beta1.INT, 4, []any{nil}},
		{"uint64", v1beta1.INT, 4, []any{nil}},
		{"int16", v1beta1.FLOAT, 1, []any{0.1, "0.01", "1e-3", 2.5, -0.1}},
		{"uint16", v1beta1.DOUBLE, 1, []any{0.1, "0.125"}},
		{"int32", v1beta1.DOUBLE, 2, []any{0.1, "0.001"}},
		{"int64", v1beta1.STRING, 4, []any{nil}},
		{"float16", v1beta1.FLOAT, 1, []any{nil}},
		{"float32", v1beta1.FLOAT, 2, []any{nil}},
		{"float64", v1beta1.DOUBLE, 4, []any{nil}},
		{"int48", v1beta1.INT, 3, []any{nil, 2}},
		{"uint48", v1beta1.DOUBLE, 3, []any{"0.5"}},
		{"bcd16", v1beta1.INT, 1, []any{nil}},
		{"bcd64", v1beta1.INT, 4, []any{nil}},
		{"t5", v1beta1.DOUBLE, 2, []any{nil}},
		{"t6", v1beta1.DOUBLE, 2, []any{nil}},
		{"mod10k", v1beta1.INT, 2, []any{nil}},
		{"umod10k", v1beta1.INT, 2, []any{nil}},
	}
	rapid.Check(t, func(t *rapid.T) {
		c := rapid.SampledFrom(types).Draw(t, "type")
		visitor := map[string]any{"register": "HoldingRegister", "offset": 0, "dataType": c.data, "byteOrder": rapid.SampledFrom(orders).Draw(t, "order")}
		if c.words == 4 && rapid.Bool().Draw(t, "free order") {
			visitor["byteOrder"] = rapid.SampledFrom([]string{"CDABGHEF", "EFGHABCD", "BADCFEHG", "HGFEDCBA", "DCBAHGFE", "BCDEFGHA"}).Draw(t, "order 8")
		}
		if s := rapid.SampledFrom(c.scale).Draw(t, "scale"); s != nil {
			visitor["scale"] = s
			visitor["valueOffset"] = rapid.SampledFrom([]any{nil, -40, "12.5"}).Draw(t, "offset")
			if c.typ == v1beta1.INT {
				visitor["valueOffset"] = rapid.SampledFrom([]any{nil, -40, 7}).Draw(t, "offset")
			}
		}
		p := mustRead(t, c.typ, visitor)
		wire := rapid.SliceOfN(rapid.Byte(), 2*c.words, 2*c.words).Draw(t, "wire")
		switch p.encoding.form { // most bytes are no value of these
		case formBCD:
			wire = p.encoding.order.scatter(toBCD(rapid.Uint64Range(0, 1e16-1).Draw(t, "digits"), 2*c.words))
		case formMod10k:
			low := int64(0)
			if !p.encoding.unsignedDigits {
				low = -99_999_999
			}
			wire = p.encoding.order.scatter(toMod10k(rapid.Int64Range(low, 99_999_999).Draw(t, "digits"), c.words))
		}
		v, err := p.encoding.decode(wire)
		if err != nil {
			if p.encoding.form != formFloat && p.encoding.form != formBCD && p.encoding.form != formMod10k {
				t.Fatalf("decode %x: %v", wire, err)
			}
			return // not a number: no value
		}
		back, err := p.encoding.encode(v.String(), nil)
		if err != nil {
			if p.encoding.form == formDecimal { // a float of 53 bits has more digits than 24 bits hold
				return
			}
			t.Fatalf("encode %s: %v", v, err)
		}
		if again, err := p.encoding.decode(back); err != nil || again != v {
			t.Fatalf("%v: %x decodes to %s, that again to %s, %v", visitor, wire, v, again, err)
		}
		if p.encoding.form == formDecimal { // one number has several forms
			return
		}
		if !bytes.Equal(back, wire) && !negativeZero(p.encoding, wire) {
			t.Fatalf("%v: %x decodes to %s, which encodes to %x", visitor, wire, v, back)
		}
	})
}

// Decimal floats are exact for every number that they can hold.
func TestCodecDecimalFloats(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := mustRead(t, v1beta1.DOUBLE, map[string]any{"register": "HoldingRegister", "offset": 0, "dataType": "t6", "byteOrder": rapid.SampledFrom(orders).Draw(t, "order")})
		in := strconv.Itoa(rapid.IntRange(-1<<23, 1<<23-1).Draw(t, "number")) + "e" + strconv.Itoa(rapid.IntRange(-100, 100).Draw(t, "exponent"))
		wire, err := p.encoding.encode(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		v, err := p.encoding.decode(wire)
		want, _ := strconv.ParseFloat(in, 64)
		if f, ok := v.Float64(); err != nil || !ok || f != want {
			t.Fatalf("%s became %s (%v)", in, v, err)
		}
	})
	p := mustRead(t, v1beta1.DOUBLE, map[string]any{"register": "HoldingRegister", "offset": 0, "dataType": "t5"})
	for _, tooMuch := range []string{"-1", "16777217.5", "1e200"} {
		if wire, err := p.encoding.encode(tooMuch, nil); err == nil {
			t.Errorf("%s became %x", tooMuch, wire)
		}
	}
}

func negativeZero(c encoding, wire []byte) bool {
	b := c.order.gather(wire)
	return c.form == formFloat && b[0] == 0x80 && toUint(b[1:]) == 0
}

func TestCodecTextsAndBytesAreInvertible(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		packing := rapid.SampledFrom([]string{"both", "high", "low"}).Draw(t, "packing")
		visitor := map[string]any{"register": "HoldingRegister", "offset": 0, "limit": 4, "packing": packing, "isSwap": rapid.Bool().Draw(t, "swap"), "trim": false}
		room := map[string]int{"both": 8, "high": 4, "low": 4}[packing]
		in := rapid.StringMatching(`[ -~]{0,4}`).Draw(t, "text")
		p := mustRead(t, v1beta1.STRING, visitor)
		wire, err := p.encoding.encode(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		if v, err := p.encoding.decode(wire); err != nil || v.String() != in {
			t.Fatalf("%q became %q, %v", in, v, err)
		}
		b := mustRead(t, v1beta1.BYTES, visitor)
		raw := devices.Bytes(rapid.SliceOfN(rapid.Byte(), room, room).Draw(t, "bytes")).String()
		if wire, err = b.encoding.encode(raw, nil); err != nil {
			t.Fatal(err)
		}
		if v, err := b.encoding.decode(wire); err != nil || v.String() != raw {
			t.Fatalf("%q became %q, %v", raw, v, err)
		}
	})
}

func TestCodecBitsAndBytesKeepTheRestOfTheRegister(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before := rapid.SliceOfN(rapid.Byte(), 2, 2).Draw(t, "before")
		order := rapid.SampledFrom([]string{"AB", "BA"}).Draw(t, "order")
		bit := rapid.IntRange(0, 15).Draw(t, "bit")
		on := rapid.SampledFrom([]string{"true", "false"}).Draw(t, "on")
		p := mustRead(t, v1beta1.BOOLEAN, map[string]any{"register": "HoldingRegister", "offset": 0, "bit": bit, "byteOrder": order})
		after, err := p.encoding.encode(on, before)
		if err != nil {
			t.Fatal(err)
		}
		if v, _ := p.encoding.decode(after); v.String() != on {
			t.Fatalf("bit %d of %x is %s", bit, after, v)
		}
		was, is := binary.BigEndian.Uint16(p.encoding.order.gather(before)), binary.BigEndian.Uint16(p.encoding.order.gather(after))
		if (was^is)&^(1<<bit) != 0 {
			t.Fatalf("other bits changed: %04x to %04x", was, is)
		}
		b := mustRead(t, v1beta1.INT, map[string]any{"register": "HoldingRegister", "offset": 0, "dataType": "int8", "packing": "high"})
		if after, err = b.encoding.encode("-5", before); err != nil {
			t.Fatal(err)
		}
		if v, _ := b.encoding.decode(after); v.String() != "-5" || after[1] != before[1] {
			t.Fatalf("%x: %s", after, v)
		}
	})
}

func TestCodecBCD(t *testing.T) {
	p := mustRead(t, v1beta1.INT, map[string]any{"register": "HoldingRegister", "offset": 0, "dataType": "bcd", "limit": 2})
	wire, err := p.encoding.encode("12345678", nil)
	if err != nil || !bytes.Equal(wire, []byte{0x12, 0x34, 0x56, 0x78}) {
		t.Fatalf("%x %v", wire, err)
	}
	if v, err := p.encoding.decode(wire); err != nil || v.String() != "12345678" {
		t.Fatal(v, err)
	}
	if _, err := p.encoding.decode([]byte{0x1f, 0, 0, 0}); !errors.Is(err, errNotBCD) {
		t.Fatal(err)
	}
	if _, err := p.encoding.encode("100000000", nil); err == nil {
		t.Fatal("nine digits fit nowhere")
	}
}

// Pain 10: negative scaled values read as 65 5xx.
func TestPain10NegativeScaledValue(t *testing.T) {
	p := mustRead(t, v1beta1.FLOAT, map[string]any{"Register": "InputRegister", "Offset": "2", "Limit": "1", "Scale": "0.1"})
	if v, err := p.encoding.decode([]byte{0xff, 0x9c}); err != nil || v.String() != "-10" {
		t.Fatal(v, err)
	}
	if v, _ := p.encoding.decode([]byte{0, 237}); v.String() != "23.7" {
		t.Fatalf("%s: digits that nobody wrote", v)
	}
}

// Pain 11: byte and word order.
func TestPain11Orders(t *testing.T) {
	want := uint32(0x42280000) // 42.0
	for _, c := range []struct {
		order            string
		swap, registerSw bool
		wire             []byte
	}{
		{"ABCD", false, false, []byte{0x42, 0x28, 0, 0}},
		{"CDAB", false, true, []byte{0, 0, 0x42, 0x28}},
		{"BADC", true, false, []byte{0x28, 0x42, 0, 0}},
		{"DCBA", true, true, []byte{0, 0, 0x28, 0x42}},
	} {
		for _, visitor := range []map[string]any{
			{"register": "HoldingRegister", "offset": 0, "dataType": "float", "byteOrder": c.order},
			{"register": "HoldingRegister", "offset": 0, "dataType": "float", "isSwap": c.swap, "isRegisterSwap": c.registerSw},
		} {
			p := mustRead(t, v1beta1.FLOAT, visitor)
			v, err := p.encoding.decode(c.wire)
			if f, _ := v.Float64(); err != nil || f != float64(math.Float32frombits(want)) {
				t.Errorf("%v: %v %v", visitor, v, err)
			}
		}
	}
}

// Also to be tested: NaN and infinities are a quality, not a crash.
func TestNotANumberIsNoValue(t *testing.T) {
	p := mustRead(t, v1beta1.FLOAT, map[string]any{"register": "HoldingRegister", "offset": 0, "dataType": "float32"})
	if _, err := p.encoding.decode([]byte{0x7f, 0xc0, 0, 0}); !errors.Is(err, errNotANumber) {
		t.Fatal(err)
	}
	if _, err := p.encoding.decode([]byte{0x7f, 0x80, 0, 0}); !errors.Is(err, errInfinite) {
		t.Fatal(err)
	}
}

func TestEncodeRejectsWhatDoesNotFit(t *testing.T) {
	for _, c := range []struct {
		typ     v1beta1.PropertyType
		visitor map[string]any
		value   string
		reason  string
	}{
		{v1beta1.FLOAT, map[string]any{"limit": 1, "scale": 0.1}, "21.55", devices.ReasonNotValid},
		{v1beta1.INT, map[string]any{"dataType": "int16"}, "32768", devices.ReasonOutOfBounds},
		{v1beta1.INT, map[string]any{"dataType": "uint16"}, "-1", devices.ReasonOutOfBounds},
		{v1beta1.INT, map[string]any{"dataType": "uint64"}, "18446744073709551616", devices.ReasonOutOfBounds},
		{v1beta1.FLOAT, map[string]any{"dataType": "float32"}, "1e39", devices.ReasonOutOfBounds},
		{v1beta1.FLOAT, map[string]any{"dataType": "float16"}, "70000", devices.ReasonOutOfBounds},
		{v1beta1.STRING, map[string]any{"limit": 2}, "fünf?", devices.ReasonNotValid},
		{v1beta1.BYTES, map[string]any{"limit": 2}, "0102", devices.ReasonNotValid},
		{v1beta1.BOOLEAN, map[string]any{}, "2", devices.ReasonNotValid},
		{v1beta1.INT, map[string]any{}, "1/2", devices.ReasonNotValid},
		{v1beta1.INT, map[string]any{}, "1e999999999", devices.ReasonNotValid},
	} {
		c.visitor["register"], c.visitor["offset"] = "HoldingRegister", 0
		_, err := mustRead(t, c.typ, c.visitor).encoding.encode(c.value, nil)
		var r *devices.Rejection
		if !errors.As(err, &r) || r.Reason != c.reason {
			t.Errorf("%v %s: %v", c.visitor, c.value, err)
		}
	}
}

func TestHalfFloatsAreExact(t *testing.T) {
	for h := 0; h < 1<<16; h++ {
		f := halfToFloat(uint16(h))
		if math.IsNaN(float64(f)) {
			continue
		}
		if got := floatToHalf(float64(f)); got != uint16(h) {
			t.Fatalf("%04x is %g is %04x", h, f, got)
		}
	}
}
