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

// addresses is where a point's registers or bits are: the first one, or, if a value consists
// of registers in any order, each of them, the most significant first.
type addresses struct {
	table Table
	first int
	list  []int
}

// readAddresses reads a point's table and its addresses on the wire.
func readAddresses(r *devices.Reader, def string) addresses {
	how := readAddressing(r, def)
	name := r.Text("", "register", "registerType", "registerName")
	t, named := parseTable(name)
	if !named && (how != addressModicon || name != "") {
		r.Fail("register", fmt.Sprintf("%q is none of %s", name, strings.Join(tableNames[:], ", ")))
	}
	parse := addressParser{r: r, how: how, table: t, named: named}
	list := r.List("registers")
	switch {
	case list != nil && r.Has("offset", "address"):
		r.Fail("registers", "cannot be used together with offset")
	case list != nil:
		out := addresses{table: t}
		for _, text := range list {
			out.list = append(out.list, parse.address("registers", text))
		}
		out.table, out.first = parse.table, out.list[0]
		return out
	case !r.Has("offset", "address"):
		r.Fail("offset", "is missing")
		return addresses{table: t}
	}
	at := parse.address("offset", r.Text("", "offset", "address"))
	return addresses{table: parse.table, first: at}
}

// readRegister reads the address of another register of the table, which the value depends on;
// -1: none.
func readRegister(r *devices.Reader, setting, def string, t Table) int {
	text := r.Text("", setting)
	if text == "" {
		return -1
	}
	parse := addressParser{r: r, how: readAddressing(r, def), table: t, named: true}
	return parse.address(setting, text)
}

// addressParser converts numbers of a manual into addresses on the wire.
type addressParser struct {
	r     *devices.Reader
	how   string
	table Table
	named bool // the table is known
}

func (a *addressParser) address(setting, text string) int {
	one := devices.Settings{strings.ToLower(setting): text}.Read()
	at := 0
	switch a.how {
	case addressOne:
		at = int(one.Int(1, 1, 65536, setting)) - 1
	case addressModicon:
		at = a.modicon(one, setting, text)
	default:
		at = int(one.Int(0, 0, 65535, setting))
	}
	a.r.Join(one)
	return at
}

// modicon converts 1…9999 and 0xxxx as coils, 1xxxx as discrete inputs, 3xxxx as input
// registers and 4xxxx as holding registers, with five or six digits.
func (a *addressParser) modicon(r *devices.Reader, setting, text string) int {
	n := int(r.Int(1, 1, 465536, setting))
	digits := 10_000
	if n >= 100_000 || len(strings.TrimSpace(text)) == 6 {
		digits = 100_000
	}
	in, ok := map[int]Table{0: Coils, 1: Discretes, 3: Inputs, 4: Holdings}[n/digits]
	at := n%digits - 1
	switch {
	case !ok || at < 0 || at > 65535:
		r.Fail(setting, fmt.Sprintf("%d is not of the form 40001 or 400001", n))
		return 0
	case a.named && in != a.table:
		r.Fail(setting, fmt.Sprintf("%d is a %s, not a %s", n, in, a.table))
	}
	a.table, a.named = in, true
	return at
}
