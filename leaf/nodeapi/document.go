package nodeapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// document is a JSON object opened one level deep: its values stay bytes, so that a
// change of one field neither decodes nor loses the others.
type document map[string]json.RawMessage

func parseDocument(b []byte) (document, error) {
	var d document
	if err := json.Unmarshal(b, &d); err != nil {
		return nil, err
	}
	if d == nil {
		return nil, fmt.Errorf("%.20q is not a JSON object", b)
	}
	return d, nil
}

// child opens the object at name; a missing or null one is empty.
func (d document) child(name string) (document, error) {
	raw := d[name]
	if empty(raw) {
		return document{}, nil
	}
	c, err := parseDocument(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return c, nil
}

// text is the string at name, or empty.
func (d document) text(name string) string {
	var s string
	if json.Unmarshal(d[name], &s) != nil {
		return ""
	}
	return s
}

func (d document) setText(name, value string) {
	// A string always encodes.
	d[name], _ = json.Marshal(value)
}

// encode writes the object with its keys sorted; the values are copied as they are, and
// keys without a value are left out.
func (d document) encode() []byte {
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

func empty(raw json.RawMessage) bool { return len(raw) == 0 || string(raw) == "null" }

// peek reads the string, number or boolean at a path as text, empty when absent.
func peek(raw []byte, path ...string) string {
	for _, p := range path {
		var d document
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

// mergeStrings adds the strings of src that dst lacks to the map at name.
func mergeStrings(dst, src document, name string) error {
	from, err := src.child(name)
	if err != nil || len(from) == 0 {
		return err
	}
	to, err := dst.child(name)
	if err != nil {
		return err
	}
	for k, v := range from {
		if _, ok := to[k]; !ok {
			to[k] = v
		}
	}
	dst[name] = to.encode()
	return nil
}
