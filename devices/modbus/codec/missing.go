package codec

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"github.com/petiole-io/petiole/devices"
)

// errNotAvailable is the error of registers with a number that means that there is no value.
var errNotAvailable = errors.New(devices.ReasonNotAvailable)

// errCheck is the error of a device whose checkRegister holds another number.
var errCheck = errors.New("CheckRegisterDiffers")

// check is a condition for a value: the register holds one of the values. Without a register,
// which is -1, there is no condition.
type check struct {
	register int
	values   []uint16
}

func readCheck(r *devices.Reader, addressing string, t Table) check {
	c := check{register: readRegister(r, "checkRegister", addressing, t)}
	list := r.List("checkValue")
	for _, text := range list {
		n, err := strconv.ParseUint(text, 0, 16)
		if err != nil {
			r.Fail("checkValue", "\""+text+"\" is no number from 0 to 65535")
		}
		c.values = append(c.values, uint16(n))
	}
	switch {
	case r.Has("checkRegister") && len(list) == 0:
		r.Fail("checkRegister", "needs checkValue: the numbers that the register may hold")
	case !r.Has("checkRegister") && r.Has("checkValue"):
		r.Fail("checkValue", "needs checkRegister: the register that holds one of these numbers")
	}
	return c
}

// String names the values.
func (c check) String() string {
	return strings.ReplaceAll(strings.Trim(fmt.Sprint(c.values), "[]"), " ", " or ")
}

// The words of the setting notAvailable.
const (
	missingNone    = "none"
	missingSunSpec = "sunspec"
)

// readMissing reads which contents of the registers mean that there is no value: a list of
// numbers, as in 0x8000 or -32768, before scale and valueOffset; or sunspec for the numbers
// that SunSpec defines for the data type; or none.
func readMissing(r *devices.Reader, e encoding, d Defaults) []uint64 {
	list := r.List("notAvailable")
	if list == nil && d.notAvailable == missingSunSpec {
		return e.sunspecMissing()
	}
	if len(list) == 1 {
		switch strings.ToLower(list[0]) {
		case missingNone:
			return nil
		case missingSunSpec:
			return e.sunspecMissing()
		}
	}
	var all []uint64
	for _, s := range list {
		u, ok := e.parseMissing(s)
		if !ok {
			r.Fail("notAvailable", "\""+s+"\" is no number that the registers can hold, nor sunspec or none")
			continue
		}
		all = append(all, u)
	}
	return all
}

// size returns the number of bytes of the number in the registers.
func (e encoding) size() int {
	if e.isByte() {
		return 1
	}
	return 2 * e.registers
}

// sunspecMissing returns what SunSpec defines as not implemented: of signed integers the least
// number, of unsigned ones, enumerations and groups of bits the greatest, of texts NULs. A
// float is NaN, which never is a value.
func (e encoding) sunspecMissing() []uint64 {
	size := e.size()
	switch {
	case e.form == formText:
		return []uint64{0}
	case e.form == formFloat || e.form == formBytes || e.form == formTime || e.form == formDecimal || e.form == formMod10k:
		return nil
	case e.form == formSigned:
		return []uint64{1 << (8*size - 1)}
	default:
		return []uint64{math.MaxUint64 >> (64 - 8*size)}
	}
}

// parseMissing converts a number to the contents of the registers. A hexadecimal number is
// the contents themselves.
func (e encoding) parseMissing(s string) (uint64, bool) {
	bits := 8 * e.size()
	if e.form == formText || e.form == formBytes || e.form == formTime {
		return 0, false
	}
	if h, ok := strings.CutPrefix(strings.ToLower(s), "0x"); ok {
		n, ok := new(big.Int).SetString(h, 16)
		return n2u(n), ok && n.Sign() >= 0 && n.BitLen() <= bits
	}
	n, ok := decimal(s)
	if !ok {
		return 0, false
	}
	if e.form == formFloat {
		plain := e
		plain.order = order{}
		b, err := plain.encodeFloat(n)
		return toUint(b), err == nil
	}
	if !n.IsInt() || e.form == formDecimal || e.form == formMod10k {
		return 0, false
	}
	if e.form == formBCD {
		most := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(bits/4)), nil)
		return toUint(toBCD(n2u(n.Num()), bits/8)), n.Sign() >= 0 && n.Num().Cmp(most) < 0
	}
	least := new(big.Int).Neg(new(big.Int).Lsh(big.NewInt(1), uint(bits-1)))
	if n.Num().Cmp(least) < 0 || n.Num().BitLen() > bits {
		return 0, false
	}
	if n.Sign() < 0 {
		return uint64(n.Num().Int64()) & (math.MaxUint64 >> (64 - bits)), true
	}
	return n.Num().Uint64(), true
}

// n2u returns a number of at most 64 bits.
func n2u(n *big.Int) uint64 {
	if n == nil {
		return 0
	}
	return n.Uint64()
}

// isMissing reports whether the number in the registers, as big-endian bytes, means that
// there is no value.
func (e encoding) isMissing(number []byte) bool {
	return len(e.missing) > 0 && slices.Contains(e.missing, toUint(number))
}
