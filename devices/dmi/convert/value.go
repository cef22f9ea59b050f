package convert

import (
	"encoding/hex"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// The reasons of readings without a value.
const (
	ReasonNoValue   = "NoValue"
	ReasonNotValid  = "NotValid"
	ReasonNotFinite = "NotFinite"
)

// ParseValue parses a reported value, which the interface carries as a string. If there is
// no value it returns the reason.
func ParseValue(t v1beta1.PropertyType, text string) (value devices.Value, reason string) {
	trimmed := strings.TrimSpace(text)
	switch t {
	case v1beta1.STRING:
		return devices.String(text), ""
	case v1beta1.BYTES:
		// Mappers send bytes as they are if they are valid UTF-8; hexadecimal digits are decoded
		// as those of a desired value are.
		if b, err := hex.DecodeString(trimmed); err == nil && trimmed != "" {
			return devices.Bytes(b), ""
		}
		return devices.String(text), ""
	}
	if trimmed == "" {
		return devices.Value{}, ReasonNoValue
	}
	switch t {
	case v1beta1.BOOLEAN:
		if b, ok := devices.ParseBool(trimmed); ok {
			return devices.Bool(b), ""
		}
	case v1beta1.INT:
		return parseInt(trimmed)
	default:
		return parseFloat(t, trimmed)
	}
	return devices.Value{}, ReasonNotValid
}

func parseInt(s string) (devices.Value, string) {
	if i, err := strconv.ParseInt(s, 10, 64); err == nil {
		return devices.Int(i), ""
	}
	if u, err := strconv.ParseUint(s, 10, 64); err == nil {
		return devices.Uint(u), ""
	}
	// 21.0 comes from a mapper that has only floats.
	if f, err := strconv.ParseFloat(s, 64); err == nil && f == math.Trunc(f) && math.Abs(f) <= 1<<53 {
		return devices.Int(int64(f)), ""
	}
	return devices.Value{}, ReasonNotValid
}

// parseFloat parses a float. A FLOAT that is exactly a single-precision number is returned as
// one: mappers print 21.1 as 21.100000381469727.
func parseFloat(t v1beta1.PropertyType, s string) (devices.Value, string) {
	f, err := strconv.ParseFloat(s, 64)
	switch {
	case err != nil && !math.IsInf(f, 0):
		return devices.Value{}, ReasonNotValid
	case math.IsInf(f, 0) || math.IsNaN(f):
		return devices.Value{}, ReasonNotFinite
	case t == v1beta1.FLOAT && float64(float32(f)) == f:
		return devices.Float32(float32(f)), ""
	default:
		return devices.Float(f), ""
	}
}

// FormatValue returns a desired value in the form that KubeEdge's mappers parse. They stop
// reading a property with a value that they cannot parse: "on", 12.0 for an INT.
func FormatValue(t v1beta1.PropertyType, text string) (string, error) {
	trimmed := strings.TrimSpace(text)
	switch t {
	case v1beta1.BOOLEAN:
		if _, err := strconv.ParseBool(trimmed); err == nil {
			return trimmed, nil
		}
		if b, ok := devices.ParseBool(trimmed); ok {
			return strconv.FormatBool(b), nil
		}
		return "", fmt.Errorf("%q is not true or false", text)
	case v1beta1.INT:
		if _, err := strconv.ParseInt(trimmed, 10, 64); err == nil {
			return trimmed, nil
		}
		if n, ok := devices.ParseNumber(trimmed); ok && n.IsInt() && n.Num().IsInt64() {
			return n.Num().String(), nil
		}
		return "", fmt.Errorf("%s is not an integer of 64 bits, which is what a mapper can get", text)
	case v1beta1.FLOAT, v1beta1.DOUBLE:
		bits := 64
		if t == v1beta1.FLOAT {
			bits = 32
		}
		if _, err := strconv.ParseFloat(trimmed, bits); err != nil {
			return "", fmt.Errorf("%s is not a number of type %s, which is what a mapper can get", text, t)
		}
		return trimmed, nil
	}
	return text, nil
}

// Same reports whether a reported value equals a desired one. A FLOAT is compared in single
// precision.
func Same(t v1beta1.PropertyType, reported devices.Value, desired string) bool {
	wanted, reason := ParseValue(t, desired)
	if reason != "" || reported.Kind() == devices.None {
		return false
	}
	if wanted == reported {
		return true
	}
	a, ok := reported.Float64()
	if !ok {
		return false
	}
	b, ok := wanted.Float64()
	if !ok {
		return false
	}
	switch t {
	case v1beta1.FLOAT:
		return float32(a) == float32(b)
	case v1beta1.DOUBLE:
		return a == b
	default:
		return false // integers are equal only when they are the same
	}
}
