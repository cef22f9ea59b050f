package objects

import (
	"bytes"
	"encoding/json"
	"reflect"

	utiljson "k8s.io/apimachinery/pkg/util/json"
)

// RemoveServerFields removes the metadata that is only valid on the server that set it.
func RemoveServerFields(meta Document) {
	for _, f := range []string{"resourceVersion", "managedFields", "selfLink", "generateName"} {
		delete(meta, f)
	}
}

// SameJSON reports whether two values are equal, regardless of the order of keys and of the
// difference between absent and null.
func SameJSON(a, b json.RawMessage) bool {
	if bytes.Equal(a, b) {
		return true
	}
	var x, y any
	if !IsEmpty(a) && utiljson.Unmarshal(a, &x) != nil || !IsEmpty(b) && utiljson.Unmarshal(b, &y) != nil {
		return false
	}
	return reflect.DeepEqual(withoutNulls(x), withoutNulls(y))
}

// SameDocument reports whether two objects are equal apart from the metadata that a server
// sets.
func SameDocument(a, b Document) bool {
	for k := range b {
		if _, ok := a[k]; !ok && !IsEmpty(b[k]) {
			return false
		}
	}
	for k := range a {
		if k != "metadata" && !SameJSON(a[k], b[k]) {
			return false
		}
	}
	x, errX := a.Child("metadata")
	y, errY := b.Child("metadata")
	if errX != nil || errY != nil {
		return false
	}
	for _, m := range []Document{x, y} {
		RemoveServerFields(m)
		delete(m, "uid")
		delete(m, "creationTimestamp")
	}
	return SameJSON(x.Encode(), y.Encode())
}

// withoutNulls removes nulls and empty maps.
func withoutNulls(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, item := range v {
			item = withoutNulls(item)
			if item == nil {
				delete(v, k)
				continue
			}
			v[k] = item
		}
		if len(v) == 0 {
			return nil
		}
		return v
	case []any:
		for i := range v {
			v[i] = withoutNulls(v[i])
		}
	}
	return v
}
