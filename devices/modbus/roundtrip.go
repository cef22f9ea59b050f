package modbus

import (
	"strings"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// encode encodes a value in string form into registers or packed bits. It rejects a value
// that would read back as a different one. A float is rounded to the nearest one that the
// registers can hold.
func (p *point) encode(value string, before []byte) ([]byte, error) {
	var data []byte
	var err error
	if p.table.bits() {
		data, err = p.encodeBits(value)
	} else {
		data, err = p.codec.encode(value, before)
	}
	if err != nil {
		return nil, err
	}
	v, err := p.decode(data, p.address)
	if err != nil {
		return nil, notValid("%q would read back as no value: %s", value, err)
	}
	if !p.codec.matches(value, v) {
		return nil, notValid("%q would read back as %q", value, v)
	}
	return data, nil
}

// matches reports whether a reading equals the desired value, by the rules of the
// property's type. It is a pure function.
func (c codec) matches(want string, v devices.Value) bool {
	got := v.String()
	if c.form == formText {
		return got == want
	}
	want = strings.TrimSpace(want)
	switch {
	case c.form == formBytes:
		return strings.EqualFold(got, want)
	case c.typ == v1beta1.BOOLEAN || c.form == formBit || c.form == formBool:
		a, okA := parseTruth(want)
		b, okB := parseTruth(got)
		return okA && okB && a == b
	}
	a, okA := decimal(want)
	b, okB := decimal(got)
	switch {
	case !okA || !okB:
		return false
	case a.Cmp(b) == 0:
		return true
	case c.typ == v1beta1.INT:
		return false
	}
	f, _ := a.Float64()
	g, _ := b.Float64()
	return f == g || (c.form == formFloat && a.Sign() == b.Sign())
}

// parseTruth parses a boolean, or a number that is 0 or 1.
func parseTruth(s string) (value, ok bool) {
	if b, ok := devices.ParseBool(s); ok {
		return b, true
	}
	n, ok := decimal(strings.TrimSpace(s))
	if !ok || !n.IsInt() || !n.Num().IsInt64() {
		return false, false
	}
	i := n.Num().Int64()
	return i == 1, s != "" && (i == 0 || i == 1)
}
