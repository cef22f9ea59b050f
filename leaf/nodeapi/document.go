package nodeapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// document is a JSON object that is decoded one level deep: its values stay encoded, so that
// changing one field neither decodes nor loses the others.
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

// child decodes the object at name. It returns an empty one if that is missing or null.
func (d document) child(name string) (document, error) {
	raw := d[name]
	if isEmpty(raw) {
		return document{}, nil
	}
	c, err := parseDocument(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return c, nil
}

// text returns the string at name, empty if there is none.
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

// encode encodes the object with sorted keys. It copies the values unchanged and leaves out
// keys without a value.
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

func isEmpty(raw json.RawMessage) bool { return len(raw) == 0 || string(raw) == "null" }

// peek returns the string, number or boolean at a path as text, empty if there is none.
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

// mergeStrings adds the entries of the map at name in src to that in dst, unless dst has them.
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
