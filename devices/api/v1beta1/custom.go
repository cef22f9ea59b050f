package v1beta1

import (
	"bytes"
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
)

// CustomizedValue is a free-form object: settings whose keys the API does not define.
// On the wire it is the object itself. Numbers keep their digits (json.Number when
// decoded), because an address or a scale must not be rounded.
//
// +k8s:deepcopy-gen=false
type CustomizedValue struct {
	Data map[string]any `json:"-"`
}

// MarshalJSON encodes the object; nil as {}.
func (v CustomizedValue) MarshalJSON() ([]byte, error) {
	if v.Data == nil {
		return []byte("{}"), nil
	}
	return json.Marshal(v.Data)
}

// UnmarshalJSON decodes an object or null; anything else is an error.
func (v *CustomizedValue) UnmarshalJSON(b []byte) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var data map[string]any
	if err := d.Decode(&data); err != nil {
		return fmt.Errorf("decode free-form object: %w", err)
	}
	v.Data = data
	return nil
}

// DeepCopyInto copies into out without sharing maps or slices.
func (v *CustomizedValue) DeepCopyInto(out *CustomizedValue) {
	out.Data = nil
	if v.Data != nil {
		out.Data = make(map[string]any, len(v.Data))
		for k, e := range v.Data {
			out.Data[k] = copyFree(e)
		}
	}
}

// DeepCopy returns a copy that shares nothing with v.
func (v *CustomizedValue) DeepCopy() *CustomizedValue {
	if v == nil {
		return nil
	}
	out := new(CustomizedValue)
	v.DeepCopyInto(out)
	return out
}

// copyFree also accepts the Go number types, which programs use and decoders do not.
func copyFree(e any) any {
	switch t := e.(type) {
	case map[string]any:
		m := make(map[string]any, len(t))
		for k, x := range t {
			m[k] = copyFree(x)
		}
		return m
	case []any:
		s := make([]any, len(t))
		for i, x := range t {
			s[i] = copyFree(x)
		}
		return s
	case int, int8, int16, int32, uint, uint8, uint16, uint32, uint64, float32:
		return t
	default:
		return runtime.DeepCopyJSONValue(t)
	}
}
