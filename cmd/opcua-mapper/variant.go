package main

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"time"

	"github.com/gopcua/opcua/ua"
)

// text returns the form in which a value is reported.
func text(v *ua.Variant) (string, error) {
	switch t := v.Value().(type) {
	case bool:
		return strconv.FormatBool(t), nil
	case int8, int16, int32, int64, uint8, uint16, uint32, uint64:
		return fmt.Sprint(t), nil
	case float32:
		return strconv.FormatFloat(float64(t), 'f', -1, 32), nil
	case float64:
		return strconv.FormatFloat(t, 'f', -1, 64), nil
	case string:
		return t, nil
	case []byte:
		return hex.EncodeToString(t), nil
	case time.Time:
		return t.Format(time.RFC3339Nano), nil
	default:
		return "", fmt.Errorf("values of type %s are not supported", v.Type())
	}
}

// equal reports whether two values are equal.
func equal(a, b *ua.Variant) bool {
	x, errX := text(a)
	y, errY := text(b)
	return errX == nil && errY == nil && x == y
}

// variant converts a desired value to the present type of the variable.
func variant(desired string, now *ua.Variant) (*ua.Variant, error) {
	v, err := typed(desired, now)
	if err != nil {
		return nil, err
	}
	return ua.NewVariant(v)
}

func typed(desired string, now *ua.Variant) (any, error) {
	switch now.Value().(type) {
	case bool:
		return strconv.ParseBool(desired)
	case int8:
		i, err := strconv.ParseInt(desired, 10, 8)
		return int8(i), err
	case int16:
		i, err := strconv.ParseInt(desired, 10, 16)
		return int16(i), err
	case int32:
		i, err := strconv.ParseInt(desired, 10, 32)
		return int32(i), err
	case int64:
		return strconv.ParseInt(desired, 10, 64)
	case uint8:
		u, err := strconv.ParseUint(desired, 10, 8)
		return uint8(u), err
	case uint16:
		u, err := strconv.ParseUint(desired, 10, 16)
		return uint16(u), err
	case uint32:
		u, err := strconv.ParseUint(desired, 10, 32)
		return uint32(u), err
	case uint64:
		return strconv.ParseUint(desired, 10, 64)
	case float32:
		f, err := strconv.ParseFloat(desired, 32)
		return float32(f), err
	case float64:
		return strconv.ParseFloat(desired, 64)
	case string:
		return desired, nil
	case []byte:
		return hex.DecodeString(desired)
	case time.Time:
		return time.Parse(time.RFC3339Nano, desired)
	default:
		return nil, fmt.Errorf("values of type %s are not supported", now.Type())
	}
}

// grade returns the quality for a status by its severity (OPC 10000-4, 7.39), and its name as
// the reason.
func grade(s ua.StatusCode) (quality, reason string) {
	name := ua.StatusCodes[s].Name
	if name == "" {
		name = fmt.Sprintf("0x%X", uint32(s))
	}
	switch uint32(s) >> 30 {
	case 0:
		return "good", ""
	case 1:
		return "uncertain", name
	default:
		return "bad", name
	}
}
