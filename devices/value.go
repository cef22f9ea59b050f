package devices

import (
	"encoding/hex"
	"math"
	"strconv"
)

// Kind is the representation of a Value.
type Kind uint8

// The kinds. KindFloat32 is a float of single precision, which decides how many digits its
// string form has.
const (
	None Kind = iota
	KindBool
	KindInt
	KindUint
	KindFloat
	KindFloat32
	KindString
	KindBytes
)

// Value is one value of a property. It is comparable with ==; the zero Value means no value.
// It never holds NaN or an infinity: a reading of those has a bad quality.
type Value struct {
	kind Kind
	bits uint64
	text string
}

// Bool returns a boolean.
func Bool(b bool) Value {
	if b {
		return Value{kind: KindBool, bits: 1}
	}
	return Value{kind: KindBool}
}

// Int returns a signed integer.
func Int(i int64) Value { return Value{kind: KindInt, bits: uint64(i)} }

// Uint returns an unsigned integer.
func Uint(u uint64) Value { return Value{kind: KindUint, bits: u} }

// Float returns a float of double precision. For NaN and infinities it returns no value.
func Float(f float64) Value { return float(KindFloat, f) }

// Float32 returns a float of single precision. For NaN and infinities it returns no value.
func Float32(f float32) Value { return float(KindFloat32, float64(f)) }

func float(k Kind, f float64) Value {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return Value{}
	}
	if f == 0 {
		f = 0 // -0 and 0 are the same value
	}
	return Value{kind: k, bits: math.Float64bits(f)}
}

// String returns a string value.
func String(s string) Value { return Value{kind: KindString, text: s} }

// Bytes returns a byte string; its string form is lower-case hexadecimal.
func Bytes(b []byte) Value { return Value{kind: KindBytes, text: string(b)} }

// Kind returns the representation of the value, None for the zero Value.
func (v Value) Kind() Kind { return v.kind }

// Float64 returns a number as a float, and whether the value is a number.
func (v Value) Float64() (float64, bool) {
	switch v.kind {
	case KindInt:
		return float64(int64(v.bits)), true
	case KindUint:
		return float64(v.bits), true
	case KindFloat, KindFloat32:
		return math.Float64frombits(v.bits), true
	default:
		return 0, false
	}
}

// String returns the form that reported and desired values have in the API: decimal numbers
// with the fewest digits that represent the value exactly, true or false, the string itself,
// or hexadecimal bytes.
func (v Value) String() string {
	switch v.kind {
	case KindBool:
		return strconv.FormatBool(v.bits == 1)
	case KindInt:
		return strconv.FormatInt(int64(v.bits), 10)
	case KindUint:
		return strconv.FormatUint(v.bits, 10)
	case KindFloat, KindFloat32:
		return string(v.appendFloat(nil))
	case KindString:
		return v.text
	case KindBytes:
		return hex.EncodeToString([]byte(v.text))
	default:
		return ""
	}
}

// MarshalJSON encodes numbers as JSON numbers with all their digits (even integers beyond
// 2^53), bytes as a hexadecimal string, and no value as null.
func (v Value) MarshalJSON() ([]byte, error) { return v.appendJSON(nil), nil }

func (v Value) appendJSON(b []byte) []byte {
	switch v.kind {
	case None:
		return append(b, "null"...)
	case KindBool:
		return strconv.AppendBool(b, v.bits == 1)
	case KindInt:
		return strconv.AppendInt(b, int64(v.bits), 10)
	case KindUint:
		return strconv.AppendUint(b, v.bits, 10)
	case KindFloat, KindFloat32:
		return v.appendFloat(b)
	default:
		return appendText(b, v.String())
	}
}

func (v Value) appendFloat(b []byte) []byte {
	size := 64
	if v.kind == KindFloat32 {
		size = 32
	}
	f := math.Float64frombits(v.bits)
	format := byte('f')
	if a := math.Abs(f); a != 0 && (a < 1e-6 || a >= 1e21) {
		format = 'e'
	}
	return strconv.AppendFloat(b, f, format, -1, size)
}
