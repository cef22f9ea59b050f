package codec

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// Point has the address of a property and the encoding of its value.
type Point struct {
	Table    Table
	Address  int // as on the wire
	Count    int // registers or bits
	encoding encoding
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
//	scale, valueOffset       value = raw·scale + valueOffset; scale 0 or absent: 1. They apply
//	                         to numbers, also to those of several bits, never to booleans
//	notAvailable             numbers in the registers that mean that there is no value: see
//	                         readMissing
//	isSwap                   the two bytes of each register are exchanged
//	isRegisterSwap           the registers are in reverse order
//	byteOrder                ABCD, BADC, CDAB, DCBA or eight letters, instead of these two
//	bit                      0 (least significant) to 15
//	packing                  both, high or low: the bytes of a register that texts and
//	                         8-bit integers use
func Read(r *devices.Reader, p devices.Point, d Defaults) Point {
	var out Point
	out.Table, out.Address = readAddress(r, d.addressing)
	limit := int(r.Int(0, 0, 2000, "limit", "count", "quantity"))
	if out.Table.Bits() {
		out.encoding, out.Count = readBits(r, p.Type, limit)
	} else {
		out.encoding = readEncoding(r, p.Type, limit, d)
		out.Count = out.encoding.registers
	}
	if out.End() > 65536 {
		r.Fail("offset", "and limit reach beyond 65535")
	}
	if p.Writable && !out.Table.writable() {
		r.Fail("register", fmt.Sprintf("%s cannot be written, but the property is ReadWrite", out.Table))
	}
	return out
}

// End returns the address after the last one of the point.
func (p *Point) End() int { return p.Address + p.Count }

// Range returns the addresses of the point.
func (p *Point) Range() Range { return Range{p.Table, p.Address, p.End()} }

// Partial reports whether the point is only a part of its register, so that a write needs
// to read it first.
func (p *Point) Partial() bool { return p.encoding.partial() }

// Mask returns the bits of the register, as it is on the wire, that belong to a partial
// point.
func (p *Point) Mask() uint16 { return p.encoding.mask() }

// Decode decodes the point from the data of a request that began at address start: registers,
// or bits packed as on the wire. The text of the error is the reason why they hold no value.
func (p *Point) Decode(data []byte, start int) (devices.Value, error) {
	if p.Table.Bits() {
		return p.decodeBits(data, p.Address-start)
	}
	at := 2 * (p.Address - start)
	return p.encoding.decode(data[at : at+2*p.Count])
}

// Encode encodes a value in string form into registers or packed bits. It rejects a value
// that would read back as a different one. A float is rounded to the nearest one that the
// registers can hold. Before are the present registers, which partial points need. Errors are
// *devices.Rejection.
func (p *Point) Encode(value string, before []byte) ([]byte, error) {
	var data []byte
	var err error
	if p.Table.Bits() {
		data, err = p.encodeBits(value)
	} else {
		data, err = p.encoding.encode(value, before)
	}
	if err != nil {
		return nil, err
	}
	v, err := p.Decode(data, p.Address)
	if err != nil {
		return nil, notValid("%q would read back as no value: %s", value, err)
	}
	if !p.encoding.matches(value, v) {
		return nil, notValid("%q would read back as %q", value, v)
	}
	return data, nil
}

// Same reports whether two contents of the point's registers or packed bits are equal in
// the bits that belong to it. Where a value has several encodings it compares the values.
func (p *Point) Same(want, is []byte) bool {
	switch {
	case p.Table.Bits():
		return bytes.Equal(want, p.unpadded(is))
	case p.Partial():
		part := p.Mask()
		return binary.BigEndian.Uint16(want)&part == binary.BigEndian.Uint16(is)&part
	case p.encoding.form == formDecimal || p.encoding.typ == v1beta1.BOOLEAN:
		a, errA := p.encoding.decode(want)
		b, errB := p.encoding.decode(is)
		return errA == nil && errB == nil && a == b
	}
	return bytes.Equal(want, is)
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
		return binary.BigEndian.Uint16(data)&p.Mask() == 0
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
