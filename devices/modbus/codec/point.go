package codec

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// Point has the address of a property and the encoding of its value. Its range has everything
// that the value is made of, so that one request reads it.
type Point struct {
	Table    Table
	Address  int // as on the wire
	Count    int // registers or bits
	encoding encoding
	// places are the positions of the value's registers in the range, the most significant
	// first; nil: the value has the whole range.
	places []int
	// apart is set if the value's registers are not neighbours.
	apart bool
	// factors are the scales for the exponents that the register at position factorAt may
	// have; nil: there is no such register.
	factors  []scale
	factorAt int
	check    check
	checkAt  int // the position of the check's register
}

// Read reads the settings of a property. What is wrong with them is an error of r:
//
//	register (registerType)  CoilRegister, DiscreteInputRegister, HoldingRegister, InputRegister
//	offset (address)         0 to 65535, as it is on the wire, or as addressing says
//	addressing               as the device's setting, for this property
//	limit (count, quantity)  registers or bits; 0 or absent: from the data type
//	dataType                 bool, bit, int, int8…int64, uint, uint8…uint64, float, float16…float64,
//	                         double, bcd, string, bytes, t5 and t6 (a decimal exponent and 24
//	                         bits, without and with sign), mod10k and umod10k (four digits in
//	                         each register); absent: from the property's type. Int, float and
//	                         double are KubeEdge's and name the type of the value: see
//	                         registerType. Bits have none of these: it is not used there
//	signed                   as the device's setting, for this property: without it int is
//	                         unsigned, and so are float and double in a single register, as
//	                         KubeEdge's drivers read them; a FLOAT or DOUBLE in a single
//	                         register without a dataType is signed
//	registers                instead of offset and limit: the value's registers, the most
//	                         significant first, which need not be neighbours. They are read in
//	                         one request
//	scaleRegister            the register with a decimal exponent, int16, -10 to 10: value =
//	                         raw·10^exponent·scale + valueOffset (the sunssf of SunSpec). It is
//	                         read in the same request. 0x8000 means that there is no value
//	checkRegister, checkValue the register that must hold one of these numbers, or there is no
//	                         value: the device has another register map. It is read in the
//	                         same request, and before a write
//	scale, valueOffset       value = raw·scale + valueOffset; scale 0 or absent: 1. They apply
//	                         to numbers, also to those of several bits, never to booleans
//	notAvailable             numbers in the registers that mean that there is no value: see
//	                         readMissing
//	isSwap                   the two bytes of each register are exchanged
//	isRegisterSwap           the registers are in reverse order
//	byteOrder                ABCD, BADC, CDAB, DCBA or eight letters, instead of these two
//	bit                      0 (least significant) to 15
//	bits                     4-6: these bits of the number are the value; a write leaves the
//	                         others as they are
//	values                   names of numbers, as in {0: "off", 1: "on"} or "0=off, 1=on"; the type
//	                         is STRING. A number without a name stands for itself
//	bitNames                 names of bits: the value is the names of those that are 1, separated
//	                         by commas; the type is STRING. A bit without a name is bit7
//	packing                  both, high or low: the bytes of a register that texts and
//	                         8-bit integers use
func Read(r *devices.Reader, p devices.Point, d Defaults) Point {
	var out Point
	where := readAddresses(r, d.addressing)
	out.Table, out.Address = where.table, where.first
	limit := int(r.Int(int64(len(where.list)), 0, 2000, "limit", "count", "quantity"))
	if where.list != nil && limit != len(where.list) {
		r.Fail("limit", fmt.Sprintf("%d is not the number of registers, %d", limit, len(where.list)))
	}
	if out.Table.Bits() {
		out.encoding, out.Count = readBits(r, p.Type, limit)
		if r.Has("registers", "scaleRegister", "checkRegister", "checkValue") {
			r.Fail("registers, scaleRegister, checkRegister", "do not apply to coils and discrete inputs")
		}
	} else {
		out.encoding = readEncoding(r, p.Type, limit, d)
		out.Count = out.encoding.registers
		out.check = readCheck(r, d.addressing, out.Table)
		out.spread(r, where, readRegister(r, "scaleRegister", d.addressing, out.Table))
	}
	if out.End() > 65536 {
		r.Fail("offset", "and limit reach beyond 65535")
	}
	if p.Writable && !out.Table.writable() {
		r.Fail("register", fmt.Sprintf("%s cannot be written, but the property is ReadWrite", out.Table))
	}
	if p.Writable && out.apart {
		r.Fail("registers", "are not neighbours, so that one request cannot write them, but the property is ReadWrite")
	}
	return out
}

// spread extends the range over the value's registers, the register with the scale and the one
// that is checked.
func (p *Point) spread(r *devices.Reader, where addresses, factor int) {
	if where.list == nil && factor < 0 && p.check.register < 0 || p.Count == 0 { // without registers there is an error already
		return
	}
	own := where.list
	if own == nil {
		for i := range p.Count {
			own = append(own, p.Address+i)
		}
	}
	if len(own) != p.encoding.registers {
		r.Fail("registers", fmt.Sprintf("are %d, the data type has %d", len(own), p.encoding.registers))
		return
	}
	sorted := slices.Sorted(slices.Values(own))
	if len(slices.Compact(slices.Clone(sorted))) != len(own) {
		r.Fail("registers", "contain an address twice")
		return
	}
	if factor >= 0 {
		if slices.Contains(own, factor) {
			r.Fail("scaleRegister", fmt.Sprintf("%d is a register of the value itself", factor))
			return
		}
		p.factors = readFactors(r, p.encoding)
	}
	first, end := sorted[0], sorted[len(sorted)-1]+1
	p.apart = end-first != len(own)
	if factor >= 0 {
		first, end = min(first, factor), max(end, factor+1)
	}
	if at := p.check.register; at >= 0 {
		first, end = min(first, at), max(end, at+1)
	}
	p.Address, p.Count, p.factorAt, p.checkAt = first, end-first, factor-first, p.check.register-first
	for _, at := range own {
		p.places = append(p.places, at-first)
	}
}

// End returns the address after the last one of the point.
func (p *Point) End() int { return p.Address + p.Count }

// Range returns the addresses of the point.
func (p *Point) Range() Range { return Range{p.Table, p.Address, p.End()} }

// Sparse reports whether the range has registers that do not belong to the point.
func (p *Point) Sparse() bool { return p.places != nil }

// Partial reports whether the point is only a part of its registers.
func (p *Point) Partial() bool { return p.encoding.partial() }

// DependsOnOthers reports whether a write needs to read the registers first: to keep the other
// parts of a register, or for the scale.
func (p *Point) DependsOnOthers() bool { return p.Partial() || p.Sparse() }

// Mask returns the bits of the register, as it is on the wire, that belong to a partial
// point. It returns false if the point has several registers.
func (p *Point) Mask() (uint16, bool) {
	m := p.encoding.mask()
	return binary.BigEndian.Uint16(m), len(m) == 2
}

// Payload returns what to write of the contents that Encode returned, and its address.
func (p *Point) Payload(contents []byte) (address int, data []byte) {
	if p.places == nil {
		return p.Address, contents
	}
	first := slices.Min(p.places)
	return p.Address + first, contents[2*first : 2*(first+len(p.places))]
}

// Decode decodes the point from the data of a request that began at address start: registers,
// or bits packed as on the wire. The text of the error is the reason why they hold no value.
func (p *Point) Decode(data []byte, start int) (devices.Value, error) {
	if p.Table.Bits() {
		return p.decodeBits(data, p.Address-start)
	}
	at := 2 * (p.Address - start)
	data = data[at : at+2*p.Count]
	if !p.Sparse() {
		return p.encoding.decode(data)
	}
	if _, ok := p.checked(data); !ok {
		return devices.Value{}, errCheck
	}
	e, err := p.scaled(data)
	if err != nil {
		return devices.Value{}, err
	}
	return e.decode(p.value(data))
}

// value returns the value's registers, the most significant first, from those of the range.
func (p *Point) value(data []byte) []byte {
	if p.places == nil {
		return data
	}
	out := make([]byte, 0, 2*len(p.places))
	for _, at := range p.places {
		out = append(out, data[2*at:2*at+2]...)
	}
	return out
}

// checked returns what the register that is checked holds, and whether it may.
func (p *Point) checked(data []byte) (uint16, bool) {
	if p.check.register < 0 {
		return 0, true
	}
	is := binary.BigEndian.Uint16(data[2*p.checkAt:])
	return is, slices.Contains(p.check.values, is)
}

// scaled returns the encoding with the scale that the register for it has.
func (p *Point) scaled(data []byte) (encoding, error) {
	e := p.encoding
	if p.factors == nil {
		return e, nil
	}
	exponent := int(int16(binary.BigEndian.Uint16(data[2*p.factorAt:])))
	switch {
	case exponent == math.MinInt16:
		return e, errNotAvailable
	case exponent < -mostExponent || exponent > mostExponent:
		return e, errScale
	}
	e.scale = p.factors[exponent+mostExponent]
	return e, nil
}

// Encode encodes a value in string form into the contents of the range, registers or packed
// bits. It rejects a value that would read back as a different one. A float is rounded to the
// nearest one that the registers can hold. Before are the present contents, which points need
// that depend on others. Errors are *devices.Rejection.
func (p *Point) Encode(value string, before []byte) ([]byte, error) {
	data, e, err := p.encode(value, before)
	if err != nil {
		return nil, err
	}
	v, err := p.Decode(data, p.Address)
	if err != nil {
		return nil, notValid("%q would read back as no value: %s", value, err)
	}
	if !e.matches(value, v) {
		return nil, notValid("%q would read back as %q", value, v)
	}
	return data, nil
}

func (p *Point) encode(value string, before []byte) ([]byte, encoding, error) {
	switch {
	case p.Table.Bits():
		data, err := p.encodeBits(value)
		return data, p.encoding, err
	case !p.Sparse():
		data, err := p.encoding.encode(value, before)
		return data, p.encoding, err
	}
	if is, ok := p.checked(before); !ok {
		return nil, p.encoding, notValid("register %d holds %d, not %s: the device has another register map", p.check.register, is, p.check)
	}
	e, err := p.scaled(before)
	if err != nil {
		return nil, e, notValid("the scale register holds no exponent: %s", err)
	}
	own, err := e.encode(value, p.value(before))
	if err != nil {
		return nil, e, err
	}
	data := bytes.Clone(before)
	for i, at := range p.places {
		copy(data[2*at:], own[2*i:2*i+2])
	}
	return data, e, nil
}

// Same reports whether two contents of the point's range are equal in the bits that belong to
// the point. Where a value has several encodings it compares the values.
func (p *Point) Same(want, is []byte) bool {
	switch {
	case p.Table.Bits():
		return bytes.Equal(want, p.unpadded(is))
	case p.Partial():
		return bytes.Equal(and(p.value(want), p.encoding.mask()), and(p.value(is), p.encoding.mask()))
	case p.factors != nil || p.encoding.form == formDecimal || p.encoding.form == formText || p.encoding.typ == v1beta1.BOOLEAN:
		a, errA := p.Decode(want, p.Address)
		b, errB := p.Decode(is, p.Address)
		return errA == nil && errB == nil && a == b
	}
	return bytes.Equal(p.value(want), p.value(is))
}

// and returns the bits of a register that a mask has.
func and(a, mask []byte) []byte {
	out := make([]byte, len(a))
	for i := range a {
		out[i] = a[i] & mask[i]
	}
	return out
}

// unpadded clears the padding of packed bits, which the unit may fill with anything.
func (p *Point) unpadded(data []byte) []byte {
	if p.Count%8 == 0 {
		return data
	}
	out := append([]byte(nil), data...)
	out[len(out)-1] &= 1<<(p.Count%8) - 1
	return out
}

// Zero reports whether all bits that belong to the point are zero.
func (p *Point) Zero(data []byte) bool {
	switch {
	case p.Table.Bits():
		data = p.unpadded(data)
	case p.Partial():
		data = and(p.value(data), p.encoding.mask())
	default:
		data = p.value(data)
	}
	for _, b := range data {
		if b != 0 {
			return false
		}
	}
	return true
}

// decodeBits decodes a point of a table of bits from packed bits, starting at position at.
func (p *Point) decodeBits(packed []byte, at int) (devices.Value, error) {
	var u uint64
	for i := 0; i < p.Count; i++ {
		if packed[(at+i)/8]>>((at+i)%8)&1 == 1 {
			u |= 1 << i
		}
	}
	if p.Count == 1 {
		return p.encoding.boolValue(u == 1), nil
	}
	return p.encoding.unsigned(u)
}

// encodeBits is the inverse of decodeBits. The result is packed from bit 0.
func (p *Point) encodeBits(value string) ([]byte, error) {
	raw, err := p.encoding.raw(value)
	if err != nil {
		return nil, err
	}
	if !raw.IsInt() {
		return nil, notValid("%q is not a multiple of the scale", value)
	}
	if raw.Sign() < 0 || raw.Num().BitLen() > p.Count {
		return nil, &devices.Rejection{Reason: devices.ReasonOutOfBounds, Message: fmt.Sprintf("%s does not fit %d bits", value, p.Count)}
	}
	u := raw.Num().Uint64()
	packed := make([]byte, (p.Count+7)/8)
	for i := range packed {
		packed[i] = byte(u >> (8 * i))
	}
	return packed, nil
}
