package objects

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// Document is a JSON object that is decoded one level deep: its values stay encoded, so that
// changing one field neither decodes nor loses the others.
type Document map[string]json.RawMessage

// ParseDocument decodes a JSON object. It returns an error for every other value, null included.
func ParseDocument(b []byte) (Document, error) {
	var d Document
	if err := json.Unmarshal(b, &d); err != nil {
		return nil, err
	}
	if d == nil {
		return nil, fmt.Errorf("%.20q is not a JSON object", b)
	}
	return d, nil
}

// Child decodes the object at name. It returns an empty one if that is missing or null.
func (d Document) Child(name string) (Document, error) {
	raw := d[name]
	if IsEmpty(raw) {
		return Document{}, nil
	}
	c, err := ParseDocument(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return c, nil
}

// Text returns the string at name, empty if there is none.
func (d Document) Text(name string) string {
	var s string
	if json.Unmarshal(d[name], &s) != nil {
		return ""
	}
	return s
}

// SetText sets the string at name.
func (d Document) SetText(name, value string) {
	// A string always encodes.
	d[name], _ = json.Marshal(value)
}

// Encode encodes the object with sorted keys. It copies the values unchanged and leaves out
// keys without a value.
func (d Document) Encode() []byte {
	n := 2
	for k, v := range d {
		n += len(k) + len(v) + 4
	}
	b := bytes.NewBuffer(make([]byte, 0, n))
	b.WriteByte('{')
	for _, k := range slices.Sorted(maps.Keys(d)) {
		if len(d[k]) == 0 {
			continue
		}
		if b.Len() > 1 {
			b.WriteByte(',')
		}
		name, _ := json.Marshal(k)
		b.Write(name)
		b.WriteByte(':')
		b.Write(d[k])
	}
	b.WriteByte('}')
	return b.Bytes()
}

// IsEmpty reports whether a value is missing or null.
func IsEmpty(raw json.RawMessage) bool { return len(raw) == 0 || string(raw) == "null" }

// Peek returns the string, number or boolean at a path as text, empty if there is none.
func Peek(raw []byte, path ...string) string {
	for _, p := range path {
		var d Document
		if json.Unmarshal(raw, &d) != nil {
			return ""
		}
		raw = d[p]
	}
	if len(raw) == 0 || string(raw) == "null" || raw[0] == '{' || raw[0] == '[' {
		return ""
	}
	if raw[0] != '"' {
		return string(raw)
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

// mergeStrings adds the entries of the map at name in src to that in dst, unless dst has them.
func mergeStrings(dst, src Document, name string) error {
	from, err := src.Child(name)
	if err != nil || len(from) == 0 {
		return err
	}
	to, err := dst.Child(name)
	if err != nil {
		return err
	}
	for k, v := range from {
		if _, ok := to[k]; !ok {
			to[k] = v
		}
	}
	dst[name] = to.Encode()
	return nil
}
