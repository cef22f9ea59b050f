package codec

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/big"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

const (
	decimalDigits = 24 // bits of the number of a formDecimal
	mod10kBase    = 10_000
)

// decodeDecimal decodes exponent and number exactly, and returns the nearest float.
func (e encoding) decodeDecimal(b []byte) (devices.Value, error) {
	n := int64(binary.BigEndian.Uint32(b) & (1<<decimalDigits - 1))
	if !e.unsignedDigits {
		n = n << (64 - decimalDigits) >> (64 - decimalDigits)
	}
	raw := new(big.Rat).SetInt64(n)
	raw.Mul(raw, powerOfTen(int(int8(b[0]))))
	if e.scale.on {
		raw.Add(raw.Mul(raw, e.scale.factor), e.scale.offset)
	}
	if e.typ == v1beta1.INT && raw.IsInt() && raw.Num().IsInt64() {
		return devices.Int(raw.Num().Int64()), nil
	}
	f, _ := raw.Float64()
	switch {
	case math.IsInf(f, 0):
		return devices.Value{}, errTooLarge
	case e.typ == v1beta1.INT:
		return roundToInt(f)
	}
	return e.asType(devices.Float(f)), nil
}

// encodeDecimal finds the exponent nearest to zero with which the number is exact.
func (e encoding) encodeDecimal(value string, raw *big.Rat) ([]byte, error) {
	low, high := new(big.Int), big.NewInt(1<<decimalDigits)
	if !e.unsignedDigits {
		high.Rsh(high, 1)
		low.Neg(high)
	}
	for step := 0; step < 256; step++ {
		exponent := (step + 1) / 2
		if step%2 == 1 {
			exponent = -exponent
		}
		if exponent < math.MinInt8 || exponent > math.MaxInt8 {
			continue
		}
		n := new(big.Rat).Quo(raw, powerOfTen(exponent))
		if n.IsInt() && n.Num().Cmp(low) >= 0 && n.Num().Cmp(high) < 0 {
			b := binary.BigEndian.AppendUint32(nil, uint32(n.Num().Int64())&(1<<decimalDigits-1))
			b[0] = byte(int8(exponent))
			return e.order.scatter(b), nil
		}
	}
	return nil, &devices.Rejection{Reason: devices.ReasonOutOfBounds, Message: fmt.Sprintf("%s does not fit %d bits and a power of ten", value, decimalDigits)}
}

func powerOfTen(e int) *big.Rat {
	p := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(max(e, -e))), nil)
	if e < 0 {
		return new(big.Rat).SetFrac(big.NewInt(1), p)
	}
	return new(big.Rat).SetInt(p)
}

// decodeMod10k sums up registers of four digits, the first being the most significant. Of a
// negative number every register is negative or zero.
func (e encoding) decodeMod10k(b []byte) (devices.Value, error) {
	var n int64
	sign := int64(0)
	for i := 0; i < len(b); i += 2 {
		d := int64(int16(binary.BigEndian.Uint16(b[i:])))
		wrong := d <= -mod10kBase || d >= mod10kBase || (d < 0 && e.unsignedDigits) || d*sign < 0
		if wrong {
			return devices.Value{}, errNotDigits
		}
		if d != 0 {
			sign = d
		}
		n = n*mod10kBase + d
	}
	return e.signed(n)
}

func toMod10k(n int64, words int) []byte {
	b := make([]byte, 2*words)
	for i := words - 1; i >= 0; i-- {
		binary.BigEndian.PutUint16(b[2*i:], uint16(n%mod10kBase))
		n /= mod10kBase
	}
	return b
}

// halfToFloat converts an IEEE 754 binary16, exactly.
func halfToFloat(h uint16) float32 {
	sign, exponent, fraction := uint32(h>>15)<<31, uint32(h>>10&0x1f), uint32(h&0x3ff)
	switch exponent {
	case 0:
		f := float32(fraction) * (1.0 / (1 << 24))
		return math.Float32frombits(sign | math.Float32bits(f))
	case 0x1f:
		return math.Float32frombits(sign | 0x7f800000 | fraction<<13)
	default:
		return math.Float32frombits(sign | (exponent+112)<<23 | fraction<<13)
	}
}

// floatToHalf rounds to the nearest binary16, ties to even. A number beyond its range
// becomes an infinity.
func floatToHalf(f float64) uint16 {
	sign := uint16(0)
	if math.Signbit(f) {
		sign, f = 0x8000, -f
	}
	switch {
	case math.IsNaN(f):
		return sign | 0x7e00
	case f >= 65520:
		return sign | 0x7c00
	case f < 1.0/(1<<14): // subnormal: a multiple of 2^-24
		return sign | uint16(math.RoundToEven(f*(1<<24)))
	}
	m, e := math.Frexp(f) // f = m·2^e, m in [0.5, 1)
	n := uint32(math.RoundToEven(m * (1 << 11)))
	if n == 1<<11 {
		n, e = 1<<10, e+1
	}
	return sign | uint16(e+14)<<10 | uint16(n&0x3ff)
}
