package codec

import (
	"strings"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// matches reports whether a reading equals the desired value, by the rules of the
// property's type. It is a pure function.
func (e encoding) matches(want string, v devices.Value) bool {
	got := v.String()
	switch e.form {
	case formText:
		return got == e.text.trimmed(want)
	case formTime:
		return e.time.same(got, want)
	}
	want = strings.TrimSpace(want)
	switch {
	case e.form == formBytes:
		return strings.EqualFold(got, want)
	case e.isTruth():
		a, okA := parseTruth(want)
		b, okB := parseTruth(got)
		return okA && okB && a == b
	}
	a, okA := e.number(want)
	b, okB := e.number(got)
	switch {
	case !okA || !okB:
		return false
	case a.Cmp(b) == 0:
		return true
	case e.typ == v1beta1.INT:
		return false
	}
	f, _ := a.Float64()
	g, _ := b.Float64()
	return f == g || (e.form == formFloat && a.Sign() == b.Sign())
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
