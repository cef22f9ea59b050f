package modbus

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"math/big"
	"strings"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// form is the encoding of a value in its registers.
type form uint8

const (
	formSigned form = iota
	formUnsigned
	formFloat
	formBCD
	formText
	formBytes
	formBit  // one bit of one register
	formBool // a register that is zero or not
	// formDecimal is a signed decimal exponent in the first byte and a number of three
	// bytes: number·10^exponent (the T5 and T6 of power meters).
	formDecimal
	// formMod10k has four decimal digits in each register.
	formMod10k
)

// packing selects the bytes of its registers that a value uses.
type packing uint8

const (
	packBoth packing = iota
	packHigh
	packLow
)

// codec decodes the registers of one point into a value and encodes a value into them. Its
// methods are pure functions; encode is the inverse of decode.
type codec struct {
	form      form
	registers int // registers
	order     order
	packing   packing // of texts, bytes, and 8-bit integers
	bit       uint    // with formBit, 0 is the least significant
	scale     scale
	typ       v1beta1.PropertyType
	// unsignedDigits makes formDecimal and formMod10k unsigned.
	unsignedDigits bool
}

// The reasons why registers hold no value.
var (
	errNotANumber = errors.New("NotANumber")
	errInfinite   = errors.New("Infinite")
	errNotBCD     = errors.New("NotBCD")
	errTooLarge   = errors.New("TooLarge")
	errNotDigits  = errors.New("NotFourDigits")
)

// partial reports whether the point is only a part of its register, so that a write needs
// to read it first.
func (c codec) partial() bool {
	return c.form == formBit || (c.isByte() && c.packing != packBoth)
}

// isByte reports whether the value is an 8-bit integer, which has half of one register.
func (c codec) isByte() bool {
	return (c.form == formSigned || c.form == formUnsigned) && c.packing != packBoth
}

// decode decodes the value of a point's registers; wire has 2·registers bytes. The error is
// one of the reasons above.
func (c codec) decode(wire []byte) (devices.Value, error) {
	switch c.form {
	case formText:
		return devices.String(text(c.unpack(wire))), nil
	case formBytes:
		return devices.Bytes(c.unpack(wire)), nil
	}
	b := c.order.gather(wire)
	switch c.form {
	case formBit:
		return c.boolValue(binary.BigEndian.Uint16(b)>>c.bit&1 == 1), nil
	case formBool:
		return c.boolValue(toUint(b) != 0), nil
	case formFloat:
		return c.decodeFloat(b)
	case formBCD:
		u, err := fromBCD(b)
		if err != nil {
			return devices.Value{}, err
		}
		return c.unsigned(u)
	case formDecimal:
		return c.decodeDecimal(b)
	case formMod10k:
		return c.decodeMod10k(b)
	}
	switch {
	case c.packing == packHigh:
		b = b[:1]
	case c.packing == packLow:
		b = b[1:2]
	}
	u := toUint(b)
	if c.form == formUnsigned {
		return c.unsigned(u)
	}
	shift := 64 - 8*uint(len(b))
	return c.signed(int64(u<<shift) >> shift)
}

func (c codec) boolValue(b bool) devices.Value {
	if c.typ == v1beta1.BOOLEAN {
		return devices.Bool(b)
	}
	n := int64(0)
	if b {
		n = 1
	}
	return c.asType(devices.Int(n))
}

func (c codec) signed(i int64) (devices.Value, error) {
	if !c.scale.on || c.typ == v1beta1.BOOLEAN {
		return c.asType(devices.Int(i)), nil
	}
	f := c.scale.integer(i)
	if c.typ == v1beta1.INT && math.Abs(f) >= exact {
		return c.roundExact(new(big.Rat).SetInt64(i))
	}
	return c.scaled(f)
}

func (c codec) unsigned(u uint64) (devices.Value, error) {
	if u <= math.MaxInt64 {
		return c.signed(int64(u))
	}
	if !c.scale.on || c.typ == v1beta1.BOOLEAN {
		return c.asType(devices.Uint(u)), nil
	}
	raw := new(big.Rat).SetInt(new(big.Int).SetUint64(u))
	if c.typ == v1beta1.INT {
		return c.roundExact(raw)
	}
	return c.scaled(c.scale.rat(raw))
}

// roundExact scales a number that a float may not hold, and rounds it to an integer.
func (c codec) roundExact(raw *big.Rat) (devices.Value, error) {
	switch n := c.scale.round(raw); {
	case n.IsInt64():
		return devices.Int(n.Int64()), nil
	case n.IsUint64():
		return devices.Uint(n.Uint64()), nil
	default:
		return devices.Value{}, errTooLarge
	}
}

func (c codec) scaled(f float64) (devices.Value, error) {
	if c.typ == v1beta1.INT {
		return roundToInt(f)
	}
	return c.asType(devices.Float(f)), nil
}

func roundToInt(f float64) (devices.Value, error) {
	f = math.Round(f)
	if math.Abs(f) >= 1<<63 {
		return devices.Value{}, errTooLarge
	}
	return devices.Int(int64(f)), nil
}

func (c codec) decodeFloat(b []byte) (devices.Value, error) {
	var f float64
	single := true
	switch len(b) {
	case 2:
		f = float64(halfToFloat(binary.BigEndian.Uint16(b)))
	case 4:
		f = float64(math.Float32frombits(binary.BigEndian.Uint32(b)))
	default:
		f, single = math.Float64frombits(binary.BigEndian.Uint64(b)), false
	}
	switch {
	case math.IsNaN(f):
		return devices.Value{}, errNotANumber
	case math.IsInf(f, 0):
		return devices.Value{}, errInfinite
	}
	if c.scale.on {
		f = c.scale.float(f)
	}
	switch {
	case math.IsInf(f, 0) || (single && math.IsInf(float64(float32(f)), 0)):
		return devices.Value{}, errTooLarge
	case c.typ == v1beta1.INT:
		return roundToInt(f)
	case single:
		return c.asType(devices.Float32(float32(f))), nil
	default:
		return c.asType(devices.Float(f)), nil
	}
}

// asType converts a number to the type of the model.
func (c codec) asType(v devices.Value) devices.Value {
	switch c.typ {
	case v1beta1.STRING:
		return devices.String(v.String())
	case v1beta1.BOOLEAN:
		f, _ := v.Float64()
		return devices.Bool(f != 0)
	default:
		return v
	}
}

// encode encodes a value in string form. Before are the present registers, which partial
// points need. Errors are *devices.Rejection.
func (c codec) encode(value string, before []byte) ([]byte, error) {
	switch c.form {
	case formText:
		return c.encodeText(value)
	case formBytes:
		b, err := hex.DecodeString(strings.TrimSpace(value))
		if err != nil || len(b) != c.byteLen() {
			return nil, notValid("%q is not %d hexadecimal bytes", value, c.byteLen())
		}
		return c.pack(b), nil
	}
	raw, err := c.raw(value)
	if err != nil {
		return nil, err
	}
	switch c.form {
	case formFloat:
		return c.encodeFloat(raw)
	case formDecimal:
		return c.encodeDecimal(value, raw)
	}
	if !raw.IsInt() {
		return nil, notValid("%q is not a multiple of the scale", value)
	}
	return c.encodeInteger(value, raw.Num(), before)
}

// raw returns the number to store in the registers.
func (c codec) raw(value string) (*big.Rat, error) {
	if c.typ == v1beta1.BOOLEAN || c.form == formBit || c.form == formBool {
		b, ok := parseTruth(value)
		if !ok {
			return nil, notValid("%q is not true or false", value)
		}
		if b {
			return big.NewRat(1, 1), nil
		}
		return new(big.Rat), nil
	}
	n, ok := decimal(strings.TrimSpace(value))
	if !ok || strings.TrimSpace(value) == "" {
		return nil, notValid("%q is not a number", value)
	}
	return c.scale.invert(n), nil
}

func (c codec) encodeInteger(value string, n *big.Int, before []byte) ([]byte, error) {
	size := 2 * c.registers
	if c.isByte() {
		size = 1
	}
	low, high := new(big.Int), new(big.Int).Lsh(big.NewInt(1), uint(8*size))
	switch c.form {
	case formSigned:
		high.Rsh(high, 1)
		low.Neg(high)
	case formBCD:
		high.Exp(big.NewInt(10), big.NewInt(int64(2*size)), nil)
	case formMod10k:
		high.Exp(big.NewInt(10), big.NewInt(int64(2*size)), nil)
		if !c.unsignedDigits {
			low.Neg(high).Add(low, big.NewInt(1))
		}
	case formBit, formBool:
		high.SetInt64(2)
	}
	if n.Cmp(low) < 0 || n.Cmp(high) >= 0 {
		return nil, &devices.Rejection{Reason: devices.ReasonOutOfBounds, Message: fmt.Sprintf("%s does not fit the register", value)}
	}
	u := n.Uint64()
	if n.Sign() < 0 {
		u = uint64(n.Int64())
	}
	switch {
	case c.form == formBCD:
		return c.order.scatter(toBCD(u, size)), nil
	case c.form == formMod10k:
		return c.order.scatter(toMod10k(n.Int64(), c.registers)), nil
	case c.partial():
		return c.order.scatter(c.merge(c.order.gather(before), u)), nil
	}
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], u)
	return c.order.scatter(b[8-size:]), nil
}

// merge replaces a bit or a byte of its register.
func (c codec) merge(register []byte, u uint64) []byte {
	r := binary.BigEndian.Uint16(register)
	switch {
	case c.form == formBit:
		r = r&^(1<<c.bit) | uint16(u&1)<<c.bit
	case c.packing == packHigh:
		r = r&0x00ff | uint16(u)<<8
	default:
		r = r&0xff00 | uint16(u)&0xff
	}
	return binary.BigEndian.AppendUint16(nil, r)
}

// mask has the bits of the register, as it is on the wire, that belong to a partial point.
func (c codec) mask() uint16 {
	return binary.BigEndian.Uint16(c.order.scatter(c.merge([]byte{0, 0}, math.MaxUint64)))
}

func (c codec) encodeFloat(raw *big.Rat) ([]byte, error) {
	f, _ := raw.Float64()
	var b []byte
	switch c.registers {
	case 1:
		h := floatToHalf(f)
		if h&0x7fff >= 0x7c00 {
			f = math.Inf(1)
		}
		b = binary.BigEndian.AppendUint16(nil, h)
	case 2:
		s, _ := raw.Float32()
		if math.IsInf(float64(s), 0) {
			f = math.Inf(1)
		}
		b = binary.BigEndian.AppendUint32(nil, math.Float32bits(s))
	default:
		b = binary.BigEndian.AppendUint64(nil, math.Float64bits(f))
	}
	if math.IsInf(f, 0) {
		return nil, &devices.Rejection{Reason: devices.ReasonOutOfBounds, Message: "the number does not fit the register"}
	}
	return c.order.scatter(b), nil
}

func toUint(b []byte) uint64 {
	var u uint64
	for _, x := range b {
		u = u<<8 | uint64(x)
	}
	return u
}

func fromBCD(b []byte) (uint64, error) {
	var u uint64
	for _, x := range b {
		if x>>4 > 9 || x&15 > 9 {
			return 0, errNotBCD
		}
		u = u*100 + uint64(x>>4)*10 + uint64(x&15)
	}
	return u, nil
}

func toBCD(u uint64, size int) []byte {
	b := make([]byte, size)
	for i := size - 1; i >= 0; i-- {
		b[i] = byte(u%10) | byte(u/10%10)<<4
		u /= 100
	}
	return b
}

func notValid(format string, args ...any) *devices.Rejection {
	return &devices.Rejection{Reason: devices.ReasonNotValid, Message: fmt.Sprintf(format, args...)}
}
