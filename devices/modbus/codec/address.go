package codec

import (
	"fmt"
	"strings"

	"github.com/petiole-io/petiole/devices"
)

// The ways in which manuals number the items of a table.
const (
	addressZero    = "zero"    // as on the wire
	addressOne     = "one"     // the first item is number 1
	addressModicon = "modicon" // 40001 or 400001: the first digit names the table
)

func readAddressing(r *devices.Reader, def string) string {
	switch s := r.Choice(def, []string{addressZero, addressOne, addressModicon, "0", "1", "4xxxx"}, "addressing"); s {
	case "0":
		return addressZero
	case "1":
		return addressOne
	case "4xxxx":
		return addressModicon
	default:
		return s
	}
}

// readAddress reads a point's table and its address on the wire.
func readAddress(r *devices.Reader, def string) (Table, int) {
	how := readAddressing(r, def)
	name := r.Text("", "register", "registerType", "registerName")
	t, named := parseTable(name)
	if !named && (how != addressModicon || name != "") {
		r.Fail("register", fmt.Sprintf("%q is none of %s", name, strings.Join(tableNames[:], ", ")))
	}
	if !r.Has("offset", "address") {
		r.Fail("offset", "is missing")
		return t, 0
	}
	switch how {
	case addressOne:
		return t, int(r.Int(1, 1, 65536, "offset", "address")) - 1
	case addressModicon:
		return modicon(r, t, named)
	default:
		return t, int(r.Int(0, 0, 65535, "offset", "address"))
	}
}

// modicon converts 1…9999 and 0xxxx as coils, 1xxxx as discrete inputs, 3xxxx as input
// registers and 4xxxx as holding registers, with five or six digits.
func modicon(r *devices.Reader, t Table, named bool) (Table, int) {
	n := int(r.Int(1, 1, 465536, "offset", "address"))
	digits := 10_000
	if n >= 100_000 || len(strings.TrimSpace(r.Text("", "offset", "address"))) == 6 {
		digits = 100_000
	}
	in, ok := map[int]Table{0: Coils, 1: Discretes, 3: Inputs, 4: Holdings}[n/digits]
	at := n%digits - 1
	switch {
	case !ok || at < 0 || at > 65535:
		r.Fail("offset", fmt.Sprintf("%d is not of the form 40001 or 400001", n))
		return t, 0
	case named && in != t:
		r.Fail("offset", fmt.Sprintf("%d is a %s, register says %s", n, in, t))
	}
	return in, at
}
