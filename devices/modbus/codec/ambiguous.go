package codec

import (
	"fmt"
	"math/big"
	"strings"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// Ambiguous finds the settings of a valid point that may be meant differently. Each finding
// says how the driver understands them and how to write the other meaning.
func Ambiguous(p devices.Point, pt *Point, d Defaults) []string {
	v := readVisitor(p.Visitor)
	v.signed = v.signed || d.signed
	found := bounds(p, v, pt)
	if pt.Table.Bits() {
		return append(found, bitsAmbiguous(v, pt)...)
	}
	return append(found, registersAmbiguous(p.Type, v, pt)...)
}

// visitorSettings are the settings of a property as the manifest has them.
type visitorSettings struct {
	dataType  string
	limit     int
	signed    bool // the setting is present
	scale     scale
	swaps     bool // isSwap or isRegisterSwap is true
	min, max  bool
	otherText bool // packing is not both
}

func readVisitor(s devices.Settings) visitorSettings {
	r := s.Read()
	v := visitorSettings{
		dataType: strings.ToLower(r.Text("", "dataType")), limit: int(r.Int(0, 0, 2000, "limit", "count", "quantity")),
		signed: r.Has("signed"), min: r.Has("min"), max: r.Has("max"), otherText: r.Text("both", "packing") != "both",
	}
	v.swaps = r.Bool(false, "isSwap") || r.Bool(false, "isRegisterSwap")
	v.scale, _ = newScale(r.Text("", "scale"), r.Text("", "valueOffset", "bias"))
	return v
}

// fractional reports whether integer raw numbers can have values that are no integers.
func (s scale) fractional() bool { return s.on && (!s.factor.IsInt() || !s.offset.IsInt()) }

// lowest returns the least value of raw numbers that are not negative. It returns false if
// the scale has a negative factor.
func (s scale) lowest() (*big.Rat, bool) {
	if !s.on {
		return new(big.Rat), true
	}
	return s.offset, s.factor.Sign() > 0
}

func bounds(p devices.Point, v visitorSettings, pt *Point) (found []string) {
	least, known := decimal(p.Minimum)
	if lowest, ok := v.scale.lowest(); ok && known && pt.encoding.form == formUnsigned && least.Cmp(lowest) < 0 {
		found = append(found, fmt.Sprintf("the registers are unsigned, so that the model's minimum %s is never reached: signed: true, or int16 to int64", p.Minimum))
	}
	if p.Writable && (v.min && p.Minimum == "" || v.max && p.Maximum == "") {
		found = append(found, "min and max bound nothing, here as in KubeEdge's drivers: say minimum and maximum in the model")
	}
	return found
}

func bitsAmbiguous(v visitorSettings, pt *Point) (found []string) {
	if pt.Count == 1 && v.scale.on {
		found = append(found, "scale and valueOffset do not change a boolean")
	}
	if pt.Count > 8 && v.swaps {
		found = append(found, "isSwap and isRegisterSwap change nothing: the first bit is the lowest of the number")
	}
	return found
}

func registersAmbiguous(typ v1beta1.PropertyType, v visitorSettings, pt *Point) (found []string) {
	number := typ == v1beta1.FLOAT || typ == v1beta1.DOUBLE
	value := v.dataType == "float" || v.dataType == "double"
	switch {
	case value && v.limit == 1 && !v.signed:
		found = append(found, fmt.Sprintf("%s with limit 1 is an unsigned 16-bit number times scale, as in KubeEdge's drivers: uint16, int16 or float16 are plain", v.dataType))
	case v.dataType == "" && number && v.limit == 1 && !v.signed:
		found = append(found, "without dataType a single register is a signed 16-bit number times scale: int16, uint16 or float16 are plain")
	case (v.dataType == "int" || v.dataType == "integer") && number && !v.signed:
		found = append(found, "int is an unsigned whole number, times scale: uint16 to uint64, int16 to int64 or float32 and float64 are plain")
	case (value || v.dataType == "" && number) && v.limit == 0 && v.scale.on:
		found = append(found, fmt.Sprintf("without limit it is a float of %d registers: say limit 1 for a scaled number in one, or float32 or float64", pt.Count))
	case v.dataType == "double" && v.limit == 2, v.dataType == "float" && v.limit == 4:
		found = append(found, fmt.Sprintf("%s with limit %d is a float%d: the registers decide", v.dataType, v.limit, 16*v.limit))
	case v.dataType == "long":
		found = append(found, "long has 64 bits: int32 or int64 are plain")
	case pt.encoding.form == formText && pt.Count == 1 && !v.otherText:
		found = append(found, "a string in one register is two characters: the number in it as a text is uint16")
	}
	truth := pt.encoding.form == formBit || pt.encoding.form == formBool || typ == v1beta1.BOOLEAN
	switch {
	case truth && v.scale.on:
		found = append(found, "scale and valueOffset do not change a boolean")
	case typ == v1beta1.INT && (v.scale.fractional() || pt.encoding.form == formFloat || pt.encoding.form == formDecimal || pt.factors != nil):
		found = append(found, "an INT is rounded to a whole number: type FLOAT or DOUBLE keeps the fraction")
	}
	return found
}
