package codec

import (
	"math"
	"math/big"
	"strconv"
	"strings"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// conversion converts the raw numbers of registers or bits into values of the property's
// type.
type conversion struct {
	scale scale
	typ   v1beta1.PropertyType
	// names has the names of numbers, and bitNames those of bits; nil: there are none.
	names, bitNames map[int64]string
}

func (c conversion) boolValue(b bool) devices.Value {
	if c.typ == v1beta1.BOOLEAN {
		return devices.Bool(b)
	}
	n := int64(0)
	if b {
		n = 1
	}
	return c.asType(devices.Int(n))
}

func (c conversion) signed(i int64) (devices.Value, error) {
	if !c.scale.on || c.typ == v1beta1.BOOLEAN {
		return c.asType(devices.Int(i)), nil
	}
	f := c.scale.integer(i)
	if c.typ == v1beta1.INT && math.Abs(f) >= exact {
		return c.roundExact(new(big.Rat).SetInt64(i))
	}
	return c.scaled(f)
}

func (c conversion) unsigned(u uint64) (devices.Value, error) {
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
func (c conversion) roundExact(raw *big.Rat) (devices.Value, error) {
	switch n := c.scale.round(raw); {
	case n.IsInt64():
		return devices.Int(n.Int64()), nil
	case n.IsUint64():
		return devices.Uint(n.Uint64()), nil
	default:
		return devices.Value{}, errTooLarge
	}
}

func (c conversion) scaled(f float64) (devices.Value, error) {
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

// asType converts a number to the type of the model.
func (c conversion) asType(v devices.Value) devices.Value {
	switch c.typ {
	case v1beta1.STRING:
		return devices.String(c.named(v))
	case v1beta1.BOOLEAN:
		f, _ := v.Float64()
		return devices.Bool(f != 0)
	default:
		return v
	}
}

// named returns the string form of a number: its name, or the names of its bits that are 1.
func (c conversion) named(v devices.Value) string {
	text := v.String()
	if c.names == nil && c.bitNames == nil {
		return text
	}
	n, ok := new(big.Int).SetString(text, 10)
	switch {
	case !ok:
	case c.bitNames != nil:
		var set []string
		for i := range n.BitLen() {
			if n.Bit(i) == 1 {
				set = append(set, c.bitName(i))
			}
		}
		return strings.Join(set, ",")
	case n.IsInt64() && c.names[n.Int64()] != "":
		return c.names[n.Int64()]
	}
	return text
}

// unnamedBit precedes the number of a bit without a name.
const unnamedBit = "bit"

func (c conversion) bitName(i int) string {
	if name := c.bitNames[int64(i)]; name != "" {
		return name
	}
	return unnamedBit + strconv.Itoa(i)
}

// number parses a number, a name of one, or names of bits.
func (c conversion) number(s string) (*big.Rat, bool) {
	s = strings.TrimSpace(s)
	for n, name := range c.names {
		if strings.EqualFold(name, s) {
			return new(big.Rat).SetInt64(n), true
		}
	}
	if n, ok := decimal(s); ok && (s != "" || c.bitNames != nil) {
		return n, true
	}
	if c.bitNames == nil {
		return nil, false
	}
	sum := new(big.Int)
	for name := range strings.SplitSeq(s, ",") {
		i, ok := c.bitOf(strings.TrimSpace(name))
		if !ok {
			return nil, false
		}
		sum.SetBit(sum, i, 1)
	}
	return new(big.Rat).SetInt(sum), true
}

// bitOf returns the number of the bit with a name.
func (c conversion) bitOf(name string) (int, bool) {
	for n, known := range c.bitNames {
		if strings.EqualFold(known, name) {
			return int(n), true
		}
	}
	if len(name) <= len(unnamedBit) || !strings.EqualFold(name[:len(unnamedBit)], unnamedBit) {
		return 0, false
	}
	i, err := strconv.Atoi(name[len(unnamedBit):])
	return i, err == nil && i >= 0 && i < 64 && c.bitNames[int64(i)] == ""
}
