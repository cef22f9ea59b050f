package modbus

import (
	"strings"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// encode makes the registers or packed bits of a value in string form. It rejects a value
// that would read back as another one: what is written is what is wanted, or nothing is.
// A float is the nearest that the registers hold.
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
	if !p.codec.shows(value, v) {
		return nil, notValid("%q would read back as %q", value, v)
	}
	return data, nil
}

// shows reports whether a reading is the value that is wanted, in the terms of the
// property's type. It is pure.
func (c codec) shows(want string, v devices.Value) bool {
	got := v.String()
	if c.form == formText {
		return got == want
	}
	want = strings.TrimSpace(want)
	switch {
	case c.form == formBytes:
		return strings.EqualFold(got, want)
	case c.typ == v1beta1.BOOLEAN || c.form == formBit || c.form == formBool:
		a, okA := truth(want)
		b, okB := truth(got)
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

// truth reads a truth value, or a number that is 0 or 1.
func truth(s string) (value, ok bool) {
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
