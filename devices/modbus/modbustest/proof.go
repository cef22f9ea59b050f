package modbustest

import "math"

// Layout selects what a slave returns for registers that were not written.
type Layout int

const (
	// Words proves every register alone: see Word.
	Words Layout = iota
	// Floats has a float32 in registers 2n and 2n+1: see Float.
	Floats
)

const floatBits = 12 // of the tag, and of the counter, in a Float

// Word returns the content of a register when the slave's counter is count: a tag of the
// unit and the address, plus the counter. Wrong units and addresses give counters
// that are far off, stale answers give old ones, and torn values give several.
func Word(unit byte, address, count uint16) uint16 { return tag(unit, address) + count }

// WordCount returns the counter in a register's value, which must be of this unit and
// address.
func WordCount(unit byte, address, value uint16) uint16 { return value - tag(unit, address) }

// Float returns the float at an even address: an integer below 2^24, whose
// upper half is a tag of unit and address, and whose lower half is the counter.
func Float(unit byte, address, count uint16) float32 {
	return float32(uint32(tag(unit, address))>>(16-floatBits)<<floatBits | uint32(count)&(1<<floatBits-1))
}

// FloatCount returns the counter in a float. It returns false if the float is not one of
// this unit and address.
func FloatCount(unit byte, address uint16, value float64) (uint16, bool) {
	n := uint32(value)
	if float64(n) != value || n>>floatBits != uint32(tag(unit, address))>>(16-floatBits) {
		return 0, false
	}
	return uint16(n & (1<<floatBits - 1)), true
}

// FloatAge returns by how many counts a float's counter is behind now.
func FloatAge(now, count uint16) uint16 { return (now - count) & (1<<floatBits - 1) }

func tag(unit byte, address uint16) uint16 {
	x := (uint32(unit)<<16 | uint32(address)) + 0x9e3779b9
	x = (x ^ x>>16) * 0x85ebca6b
	x = (x ^ x>>13) * 0xc2b2ae35
	return uint16(x >> 16)
}

// fill returns the word of a layout at an address.
func (l Layout) fill(unit byte, address, count uint16) uint16 {
	if l == Words {
		return Word(unit, address, count)
	}
	bits := math.Float32bits(Float(unit, address&^1, count))
	if address%2 == 0 {
		return uint16(bits >> 16)
	}
	return uint16(bits)
}
