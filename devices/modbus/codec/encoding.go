package codec

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strings"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// form is how registers represent a value.
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
	formTime // a date and time: see timestamp
)

// group is a group of bits of a number; zero: all of its bits.
type group struct{ low, count uint }

// packing selects the bytes of its registers that a value uses.
type packing uint8

const (
	packBoth packing = iota
	packHigh
	packLow
)

// layout is where the bytes of a value are in its registers.
type layout struct {
	registers int
	order     order
	packing   packing // of texts, bytes, and 8-bit integers
}

// encoding decodes the registers of one point into a value and encodes a value into them. Its
// methods are pure functions; encode is the inverse of decode.
type encoding struct {
	conversion
	layout
	form form
	bit  uint // with formBit, 0 is the least significant
	bits group
	text textSettings
	time timestamp
	// missing are the numbers in the registers that mean that there is no value; of a text, 0
	// means all NULs.
	missing []uint64
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
func (e encoding) partial() bool {
	return e.form == formBit || e.bits.count > 0 || (e.isByte() && e.packing != packBoth)
}

// ones returns as many ones as the group has bits.
func (g group) ones() uint64 { return math.MaxUint64 >> (64 - g.count) }

// isTruth reports whether the value is written as true or false.
func (e encoding) isTruth() bool {
	return e.typ == v1beta1.BOOLEAN || e.names == nil && (e.form == formBit || e.form == formBool)
}

// isByte reports whether the value is an 8-bit integer, which has half of one register.
func (e encoding) isByte() bool {
	return (e.form == formSigned || e.form == formUnsigned) && e.packing != packBoth
}

// decode decodes the value of a point's registers; wire has 2·registers bytes. The error is
// one of the reasons above.
func (e encoding) decode(wire []byte) (devices.Value, error) {
	switch e.form {
	case formText:
		if e.missing != nil && !slices.ContainsFunc(wire, func(b byte) bool { return b != 0 }) {
			return devices.Value{}, errNotAvailable
		}
		return e.text.decode(e.unpack(wire))
	case formBytes:
		return devices.Bytes(e.unpack(wire)), nil
	}
	b := e.order.gather(wire)
	if e.form == formTime {
		return e.time.decode(b)
	}
	switch {
	case e.packing == packHigh:
		b = b[:1]
	case e.packing == packLow:
		b = b[1:2]
	}
	if e.isMissing(b) {
		return devices.Value{}, errNotAvailable
	}
	switch e.form {
	case formBit:
		return e.boolValue(binary.BigEndian.Uint16(b)>>e.bit&1 == 1), nil
	case formBool:
		return e.boolValue(toUint(b) != 0), nil
	case formFloat:
		return e.decodeFloat(b)
	case formBCD:
		u, err := fromBCD(b)
		if err != nil {
			return devices.Value{}, err
		}
		return e.unsigned(u)
	case formDecimal:
		return e.decodeDecimal(b)
	case formMod10k:
		return e.decodeMod10k(b)
	}
	u, width := toUint(b), 8*uint(len(b))
	if e.bits.count > 0 {
		u, width = u>>e.bits.low&e.bits.ones(), e.bits.count
	}
	if e.form == formUnsigned {
		return e.unsigned(u)
	}
	shift := 64 - width
	return e.signed(int64(u<<shift) >> shift)
}

func (e encoding) decodeFloat(b []byte) (devices.Value, error) {
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
	if e.scale.on {
		f = e.scale.float(f)
	}
	switch {
	case math.IsInf(f, 0) || (single && math.IsInf(float64(float32(f)), 0)):
		return devices.Value{}, errTooLarge
	case e.typ == v1beta1.INT:
		return roundToInt(f)
	case single:
		return e.asType(devices.Float32(float32(f))), nil
	default:
		return e.asType(devices.Float(f)), nil
	}
}

// encode encodes a value in string form. Before are the present registers, which partial
// points need. Errors are *devices.Rejection.
func (e encoding) encode(value string, before []byte) ([]byte, error) {
	switch e.form {
	case formText:
		b, err := e.text.encode(value, e.byteLen())
		if err != nil {
			return nil, err
		}
		return e.pack(b), nil
	case formTime:
		b, err := e.time.encode(value)
		if err != nil {
			return nil, err
		}
		return e.order.scatter(b), nil
	case formBytes:
		b, err := hex.DecodeString(strings.TrimSpace(value))
		if err != nil || len(b) != e.byteLen() {
			return nil, notValid("%q is not %d hexadecimal bytes", value, e.byteLen())
		}
		return e.pack(b), nil
	}
	raw, err := e.raw(value)
	if err != nil {
		return nil, err
	}
	switch e.form {
	case formFloat:
		return e.encodeFloat(raw)
	case formDecimal:
		return e.encodeDecimal(value, raw)
	}
	if !raw.IsInt() {
		return nil, notValid("%q is not a multiple of the scale", value)
	}
	return e.encodeInteger(value, raw.Num(), before)
}

// raw returns the number to store in the registers.
func (e encoding) raw(value string) (*big.Rat, error) {
	if e.isTruth() {
		b, ok := parseTruth(value)
		if !ok {
			return nil, notValid("%q is not true or false", value)
		}
		if b {
			return big.NewRat(1, 1), nil
		}
		return new(big.Rat), nil
	}
	n, ok := e.number(value)
	if !ok || strings.TrimSpace(value) == "" {
		return nil, notValid("%q is not a number", value)
	}
	return e.scale.invert(n), nil
}

func (e encoding) encodeInteger(value string, n *big.Int, before []byte) ([]byte, error) {
	size := e.size()
	width := uint(8 * size)
	if e.bits.count > 0 {
		width = e.bits.count
	}
	low, high := new(big.Int), new(big.Int).Lsh(big.NewInt(1), width)
	switch e.form {
	case formSigned:
		high.Rsh(high, 1)
		low.Neg(high)
	case formBCD:
		high.Exp(big.NewInt(10), big.NewInt(int64(2*size)), nil)
	case formMod10k:
		high.Exp(big.NewInt(10), big.NewInt(int64(2*size)), nil)
		if !e.unsignedDigits {
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
	case e.form == formBCD:
		return e.order.scatter(toBCD(u, size)), nil
	case e.form == formMod10k:
		return e.order.scatter(toMod10k(n.Int64(), e.registers)), nil
	case e.partial():
		return e.order.scatter(e.merge(e.order.gather(before), u)), nil
	}
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], u)
	return e.order.scatter(b[8-size:]), nil
}

// merge replaces a bit, a byte or a group of bits of its registers.
func (e encoding) merge(registers []byte, u uint64) []byte {
	g := e.bits
	switch {
	case g.count > 0:
	case e.form == formBit:
		g = group{e.bit, 1}
	case e.packing == packHigh:
		g = group{8, 8}
	default:
		g = group{0, 8}
	}
	r := toUint(registers)&^(g.ones()<<g.low) | u&g.ones()<<g.low
	b := binary.BigEndian.AppendUint64(nil, r)
	return b[8-len(registers):]
}

// mask has the bits of the registers, as they are on the wire, that belong to a partial point.
func (e encoding) mask() []byte {
	return e.order.scatter(e.merge(make([]byte, 2*e.registers), math.MaxUint64))
}

func (e encoding) encodeFloat(raw *big.Rat) ([]byte, error) {
	f, _ := raw.Float64()
	var b []byte
	switch e.registers {
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
	return e.order.scatter(b), nil
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
