package codec

import (
	"errors"
	"math"
	"math/big"
	"strings"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// scale converts between raw numbers and values: value = raw·factor + offset, with factor
// and offset decimal and exact. The zero scale does not change numbers.
type scale struct {
	on             bool
	factor, offset *big.Rat
	// If fast is set, value = (raw·mul + add) / div in integers, which a float64 division
	// rounds correctly.
	mul, add int64
	div      float64
	fast     bool
}

func newScale(factor, offset string) (scale, bool) {
	f, ok := decimal(factor)
	if !ok {
		return scale{}, false
	}
	o, ok := decimal(offset)
	if !ok {
		return scale{}, false
	}
	if f.Sign() == 0 { // not set
		f.SetInt64(1)
	}
	return scaleOf(f, o), true
}

func scaleOf(f, o *big.Rat) scale {
	if f.Cmp(big.NewRat(1, 1)) == 0 && o.Sign() == 0 {
		return scale{}
	}
	s := scale{on: true, factor: f, offset: o}
	// The common denominator of both.
	gcd := new(big.Int).GCD(nil, nil, f.Denom(), o.Denom())
	div := new(big.Int).Div(new(big.Int).Mul(f.Denom(), o.Denom()), gcd)
	mul := new(big.Rat).Mul(f, new(big.Rat).SetInt(div))
	add := new(big.Rat).Mul(o, new(big.Rat).SetInt(div))
	if div.IsInt64() && div.Int64() < 1<<53 && mul.Num().IsInt64() && add.Num().IsInt64() {
		s.mul, s.add, s.div, s.fast = mul.Num().Int64(), add.Num().Int64(), float64(div.Int64()), true
	}
	return s
}

// decimal parses a number exactly. An empty string is zero.
func decimal(s string) (*big.Rat, bool) {
	if s == "" {
		return new(big.Rat), true
	}
	if len(s) > 64 || strings.ContainsAny(s, "/_xXpPbBoO") {
		return nil, false
	}
	if i := strings.IndexAny(s, "eE"); i >= 0 && len(s)-i > 5 {
		return nil, false
	}
	return new(big.Rat).SetString(s)
}

const exact = 1 << 53

// integer returns the value of a raw integer that fits into an int64.
func (s scale) integer(raw int64) float64 {
	if s.fast && abs(raw) < exact && abs(s.mul) < exact {
		if p, ok := multiply(raw, s.mul); ok && abs(p) < exact && abs(s.add) < exact && abs(p+s.add) < exact {
			return float64(p+s.add) / s.div
		}
	}
	return s.rat(new(big.Rat).SetInt64(raw))
}

// rat returns the float nearest to the value of any raw number.
func (s scale) rat(raw *big.Rat) float64 {
	f, _ := new(big.Rat).Add(new(big.Rat).Mul(raw, s.factor), s.offset).Float64()
	return f
}

// round returns the integer nearest to the value of a raw number, halves away from zero.
func (s scale) round(raw *big.Rat) *big.Int {
	v := new(big.Rat).Add(new(big.Rat).Mul(raw, s.factor), s.offset)
	half := big.NewRat(int64(v.Sign()), 2)
	v.Add(v, half)
	return new(big.Int).Quo(v.Num(), v.Denom()) // truncates towards zero
}

// float returns the value of a raw float.
func (s scale) float(raw float64) float64 {
	f, _ := s.factor.Float64()
	o, _ := s.offset.Float64()
	return raw*f + o
}

// invert returns the raw number of a value, exactly. It does not change value.
func (s scale) invert(value *big.Rat) *big.Rat {
	if !s.on {
		return value
	}
	raw := new(big.Rat).Sub(value, s.offset)
	return raw.Quo(raw, s.factor)
}

func abs(i int64) int64 {
	if i == math.MinInt64 {
		return math.MaxInt64
	}
	if i < 0 {
		return -i
	}
	return i
}

func multiply(a, b int64) (int64, bool) {
	if a == 0 || b == 0 {
		return 0, true
	}
	p := a * b
	return p, p/b == a && !(a == -1 && b == math.MinInt64) && !(b == -1 && a == math.MinInt64)
}

// mostExponent bounds the exponents of scale registers, as SunSpec does.
const mostExponent = 10

// errScale is the error of a scale register that has no exponent from -10 to 10.
var errScale = errors.New("NotAnExponent")

// readFactors returns the scales for all exponents of a scale register.
func readFactors(r *devices.Reader, e encoding) []scale {
	if e.typ == v1beta1.BOOLEAN || e.typ == v1beta1.BYTES || e.partial() || e.names != nil || e.bitNames != nil || e.form == formBit || e.form == formBool || e.form == formText || e.form == formTime {
		r.Fail("scaleRegister", "applies to numbers only")
		return nil
	}
	factors := make([]scale, 0, 2*mostExponent+1)
	for exponent := -mostExponent; exponent <= mostExponent; exponent++ {
		factor, offset := powerOfTen(exponent), new(big.Rat)
		if e.scale.on {
			factor.Mul(factor, e.scale.factor)
			offset = e.scale.offset
		}
		s := scaleOf(factor, offset)
		if !s.on { // a float as with the other exponents
			s = scale{on: true, factor: factor, offset: offset, mul: 1, div: 1, fast: true}
		}
		factors = append(factors, s)
	}
	return factors
}
