package convert

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/petiole-io/petiole/devices/api/v1beta1"
	pb "github.com/petiole-io/petiole/devices/dmi/v1beta1"
)

// overlay merges free-form settings: own keys override defaults, whatever the case of
// either. Unlike devices.Merge it keeps the case of keys, because mappers may be
// case-sensitive.
func overlay(defaults, own *v1beta1.CustomizedValue) map[string]any {
	merged := map[string]any{}
	for _, layer := range []*v1beta1.CustomizedValue{defaults, own} {
		if layer == nil {
			continue
		}
		for k, v := range layer.Data {
			for known := range merged {
				if _, again := layer.Data[known]; !again && strings.EqualFold(known, k) {
					delete(merged, known)
				}
			}
			merged[k] = v
		}
	}
	return merged
}

// pack converts settings to the form that mappers expect: a wrapper message for each key.
// Keys without a value are left out.
func pack(settings map[string]any) (*pb.CustomizedValue, error) {
	data := make(map[string]*anypb.Any, len(settings))
	var wrong []string
	for k, v := range settings {
		if v == nil {
			continue
		}
		w, err := wrap(v)
		if err != nil {
			wrong = append(wrong, fmt.Sprintf("%s: %v", k, err))
			continue
		}
		if data[k], err = anypb.New(w); err != nil {
			wrong = append(wrong, fmt.Sprintf("%s: %v", k, err))
		}
	}
	if len(wrong) > 0 {
		slices.Sort(wrong)
		return nil, fmt.Errorf("%s", strings.Join(wrong, "; "))
	}
	return &pb.CustomizedValue{Data: data}, nil
}

// wrap returns a wrapper message. There is none for lists and objects.
func wrap(v any) (proto.Message, error) {
	switch t := v.(type) {
	case string:
		return wrapperspb.String(t), nil
	case bool:
		return wrapperspb.Bool(t), nil
	case json.Number:
		return wrapNumber(t.String())
	case float32, float64, int, int8, int16, int32, int64, uint, uint8, uint16, uint32, uint64:
		return wrapNumber(fmt.Sprint(t))
	default:
		return nil, fmt.Errorf("mappers accept strings, numbers and booleans, not %T", v)
	}
}

// wrapNumber returns the FloatValue that KubeEdge sends for every number. Its single
// precision holds about seven digits. An integer that it cannot hold exactly becomes an
// Int64Value, which KubeEdge's mapper framework reads as well: rounding must not result in a
// wrong register or node number.
func wrapNumber(s string) (proto.Message, error) {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return nil, fmt.Errorf("%q is not a number", s)
	}
	single := float32(f)
	if i, err := strconv.ParseInt(s, 10, 64); err == nil && !exact(single, i) {
		return wrapperspb.Int64(i), nil
	}
	if math.IsInf(float64(single), 0) || math.IsNaN(float64(single)) {
		return nil, fmt.Errorf("%s does not fit into a float of single precision", s)
	}
	return wrapperspb.Float(single), nil
}

// exact reports whether a float equals an integer.
func exact(f float32, i int64) bool {
	return math.Abs(float64(f)) < 1<<62 && int64(f) == i
}
