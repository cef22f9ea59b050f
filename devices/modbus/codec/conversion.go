package codec

import (
	"math"
	"math/big"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// conversion converts the raw numbers of registers or bits into values of the property's
// type.
type conversion struct {
	scale scale
	typ   v1beta1.PropertyType
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
		return devices.String(v.String())
	case v1beta1.BOOLEAN:
		f, _ := v.Float64()
		return devices.Bool(f != 0)
	default:
		return v
	}
}
