package codec

import "math"

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
