package codec

import (
	"fmt"
	"strconv"
	"strings"
)

// Table is one of the four address spaces of a unit.
type Table uint8

// The tables of a unit (MODBUS Application Protocol V1.1b3, 4.3).
const (
	Coils Table = iota
	Discretes
	Holdings
	Inputs
)

var tableNames = [...]string{"CoilRegister", "DiscreteInputRegister", "HoldingRegister", "InputRegister"}

// String returns the name of the table as manifests have it.
func (t Table) String() string { return tableNames[t] }

// Function returns the function code that reads the table.
func (t Table) Function() byte { return [...]byte{1, 2, 3, 4}[t] }

// Bits reports whether the items of the table are bits.
func (t Table) Bits() bool { return t == Coils || t == Discretes }

func (t Table) writable() bool { return t == Coils || t == Holdings }

// separators removes what people put between the words of a table's name.
var separators = strings.NewReplacer(" ", "", "_", "", "-", "")

func parseTable(s string) (Table, bool) {
	s = strings.ToLower(separators.Replace(s))
	s = strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(s, "s"), "register"), "s")
	switch s {
	case "coil":
		return Coils, true
	case "discreteinput", "discrete":
		return Discretes, true
	case "holding":
		return Holdings, true
	case "input":
		return Inputs, true
	default:
		return 0, false
	}
}

// Range is a range of a table, end exclusive.
type Range struct {
	Table      Table
	Start, End int
}

// String formats the range as the setting forbidden does.
func (r Range) String() string {
	name := strings.ToLower(strings.TrimSuffix(r.Table.String(), "Register"))
	if r.End-r.Start == 1 {
		return fmt.Sprintf("%s:%d", name, r.Start)
	}
	return fmt.Sprintf("%s:%d-%d", name, r.Start, r.End-1)
}

// ParseRanges reads ranges such as "holding:12-16, input:30".
func ParseRanges(s string) ([]Range, error) {
	var all []Range
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		name, span, ok := strings.Cut(part, ":")
		if !ok {
			name, span = "holding", part
		}
		t, ok := parseTable(name)
		if !ok {
			return nil, fmt.Errorf("%q names no table", part)
		}
		low, high, ok := strings.Cut(span, "-")
		if !ok {
			high = low
		}
		first, err1 := strconv.ParseUint(strings.TrimSpace(low), 10, 16)
		last, err2 := strconv.ParseUint(strings.TrimSpace(high), 10, 16)
		if err1 != nil || err2 != nil || first > last {
			return nil, fmt.Errorf("%q is no range of addresses", part)
		}
		all = append(all, Range{t, int(first), int(last) + 1})
	}
	return all, nil
}
