package modbus

import (
	"fmt"
	"strings"
	"time"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// table is one of the four address spaces of a unit.
type table uint8

const (
	coils table = iota
	discretes
	holdings
	inputs
)

var tableNames = [...]string{"CoilRegister", "DiscreteInputRegister", "HoldingRegister", "InputRegister"}

func (t table) String() string { return tableNames[t] }

// function returns the function code that reads the table.
func (t table) function() int { return [...]int{1, 2, 3, 4}[t] }

// bits reports whether the items of the table are bits.
func (t table) bits() bool { return t == coils || t == discretes }

func (t table) writable() bool { return t == coils || t == holdings }

// point has the address of a property and how to read and write it.
type point struct {
	index   int // in the definition
	name    string
	table   table
	address int
	count   int // registers or bits
	codec   codec
	cycle   time.Duration
	// verify is set if the point can be read, so that writes are read back.
	verify    bool
	readDelay time.Duration
	owner     *subscriber // the device that it belongs to, in a poller
}

func (p *point) end() int { return p.address + p.count }

// addressRange returns the addresses of the point.
func (p *point) addressRange() addressRange { return addressRange{p.table, p.address, p.end()} }

// parsePoint reads a property's visitor settings:
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
//	isSwap                   the two bytes of each register are exchanged
//	isRegisterSwap           the registers are in reverse order
//	byteOrder                ABCD, BADC, CDAB, DCBA or eight letters, instead of these two
//	bit                      0 (least significant) to 15
//	packing                  both, high or low: the bytes of a register that texts and
//	                         8-bit integers use
//	readBack true            false for what can only be written
//	readBackDelay 0          ms between a write and its read-back
func parsePoint(i int, p devices.Point, dev settings) (point, error) {
	r := p.Visitor.Read()
	out := readPoint(r, i, p, dev)
	return out, r.Err()
}

func readPoint(r *devices.Reader, i int, p devices.Point, dev settings) point {
	out := point{
		index: i, name: p.Name, cycle: p.Cycle, verify: r.Bool(true, "readBack"),
		readDelay: time.Duration(r.Int(0, 0, 10_000, "readBackDelay")) * time.Millisecond,
	}
	t, at := readAddress(r, dev.addressing)
	out.table, out.address = t, at
	limit := int(r.Int(0, 0, 2000, "limit", "count", "quantity"))
	if t.bits() {
		out.codec, out.count = parseBits(r, p.Type, limit)
	} else {
		out.codec = parseCodec(r, p.Type, limit, dev)
		out.count = out.codec.registers
	}
	need := out.count
	switch {
	case t == coils && dev.coilsFromZero:
		need = out.end()
	case dev.singleRegisters && !t.bits():
		need = 1
	}
	if most := dev.limits().of(t); need > most {
		r.Fail("limit", fmt.Sprintf("%d is more than one request may have (%d)", need, most))
	}
	if out.end() > 65536 {
		r.Fail("offset", "and limit reach beyond 65535")
	}
	if p.Writable && !t.writable() {
		r.Fail("register", fmt.Sprintf("%s cannot be written, but the property is ReadWrite", t))
	}
	if dev.broadcasts() {
		out.verify = false
		if !p.Writable {
			r.Fail("slaveID", "0 is the broadcast, which can only be written")
		}
	}
	return out
}

func parseTable(s string) (table, bool) {
	s = strings.ToLower(strings.NewReplacer(" ", "", "_", "", "-", "").Replace(s))
	s = strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(s, "s"), "register"), "s")
	switch s {
	case "coil":
		return coils, true
	case "discreteinput", "discrete":
		return discretes, true
	case "holding":
		return holdings, true
	case "input":
		return inputs, true
	default:
		return 0, false
	}
}

// parseBits returns the codec of coils and discrete inputs: one is a boolean, several are a
// number whose least significant bit is the first.
func parseBits(r *devices.Reader, typ v1beta1.PropertyType, limit int) (codec, int) {
	count := max(limit, 1)
	c := codec{form: formBool, typ: typ}
	// KubeEdge's manifests have these settings in every property.
	r.Has("dataType", "isSwap", "isRegisterSwap")
	if count > 1 {
		c.form = formUnsigned
	}
	c.scale = readScale(r, c.form, typ)
	if count == 1 {
		return c, 1
	}
	if typ == v1beta1.BOOLEAN {
		r.Fail("limit", "of a boolean must be 1")
	}
	if typ == v1beta1.BYTES {
		r.Fail("register", "holds bits, which do not give BYTES")
	}
	if count > 64 {
		r.Fail("limit", "of bits must be at most 64")
	}
	return c, count
}

// dataTypes has the form and the number of registers of data types with a fixed width.
var dataTypes = map[string]struct {
	form  form
	words int
}{
	"int8": {formSigned, 1}, "int16": {formSigned, 1}, "int32": {formSigned, 2}, "int64": {formSigned, 4},
	"uint8": {formUnsigned, 1}, "uint16": {formUnsigned, 1}, "uint32": {formUnsigned, 2}, "uint64": {formUnsigned, 4},
	"short": {formSigned, 1}, "ushort": {formUnsigned, 1}, "long": {formSigned, 4}, "word": {formUnsigned, 1}, "dword": {formUnsigned, 2},
	"float16": {formFloat, 1}, "float32": {formFloat, 2}, "float64": {formFloat, 4},
	"bit": {formBit, 1}, "bool": {formBool, 1}, "boolean": {formBool, 1},
	"int48": {formSigned, 3}, "uint48": {formUnsigned, 3},
	"bcd16": {formBCD, 1}, "bcd32": {formBCD, 2}, "bcd64": {formBCD, 4},
	"t5": {formDecimal, 2}, "t6": {formDecimal, 2},
}

func parseCodec(r *devices.Reader, typ v1beta1.PropertyType, limit int, dev settings) codec {
	signed := r.Bool(dev.signed, "signed")
	dataType := strings.ToLower(r.Text(defaultType(typ, limit, signed || !r.Has("signed")), "dataType"))
	name := registerType(dataType, limit, signed)
	if r.Has("bit") && (!r.Has("dataType") || name == "bool" || name == "boolean") {
		name = "bit"
	}
	c := codec{typ: typ, bit: uint(r.Int(0, 0, 15, "bit")), order: parseByteOrder(r, dev.order), unsignedDigits: name == "t5" || name == "umod10k"}
	c.packing = map[string]packing{"both": packBoth, "high": packHigh, "low": packLow}[r.Choice("both", []string{"both", "high", "low"}, "packing")]
	c.form, c.registers = registerForm(r, name, dataType, limit)
	if c.registers != 4 && len(r.Text("", "byteOrder")) == 8 {
		r.Fail("byteOrder", fmt.Sprintf("has eight letters, the value has %d bytes", 2*c.registers))
	}
	eight := name == "int8" || name == "uint8"
	switch {
	case eight && c.packing == packBoth:
		c.packing = packLow
	case !eight && c.form != formText && c.form != formBytes:
		c.packing = packBoth
	}
	switch {
	case typ == v1beta1.BYTES && c.form != formBytes:
		r.Fail("dataType", fmt.Sprintf("%s does not give BYTES", dataType))
	case c.form == formBytes && typ != v1beta1.BYTES && typ != v1beta1.STRING:
		r.Fail("dataType", fmt.Sprintf("bytes do not give %s", typ))
	case c.form == formText && typ != v1beta1.STRING:
		r.Fail("dataType", fmt.Sprintf("string does not give %s", typ))
	}
	c.scale = readScale(r, c.form, typ)
	return c
}

// registerType converts KubeEdge's names, which are types of values, to types of registers:
// its drivers read an int as an unsigned number, and a float or double in a single register
// as an unsigned number times scale. Only float16 is a float in one register.
func registerType(name string, limit int, signed bool) string {
	switch name {
	case "int", "integer":
		if !signed {
			return "uint"
		}
	case "float", "double":
		switch {
		case limit != 1:
		case signed:
			return "int16"
		default:
			return "uint16"
		}
	}
	return name
}

// readScale reads the scale of a number. A boolean has none: the setting is an error if it
// would change a FLOAT or DOUBLE, and ignored otherwise.
func readScale(r *devices.Reader, f form, typ v1beta1.PropertyType) scale {
	factor, offset := r.Text("", "scale"), r.Text("", "valueOffset", "bias")
	s, ok := newScale(factor, offset)
	if !ok {
		r.Fail("scale, valueOffset", fmt.Sprintf("%q, %q are not numbers", factor, offset))
	}
	truth := f == formBit || f == formBool
	if truth && s.on && (typ == v1beta1.FLOAT || typ == v1beta1.DOUBLE) {
		r.Fail("scale, valueOffset", "do not apply to a boolean, which is 0 or 1")
	}
	if truth || typ == v1beta1.BOOLEAN {
		return scale{}
	}
	return s
}

// defaultType returns the data type of a property that does not name one. A FLOAT in a
// single register is a scaled integer, as is usual for such registers.
func defaultType(typ v1beta1.PropertyType, limit int, signed bool) string {
	switch typ {
	case v1beta1.FLOAT, v1beta1.DOUBLE:
		switch {
		case limit == 1 && signed:
			return "int16"
		case limit == 1:
			return "uint16"
		case typ == v1beta1.FLOAT:
			return "float"
		}
		return "double"
	case v1beta1.STRING:
		return "string"
	case v1beta1.BYTES:
		return "bytes"
	case v1beta1.BOOLEAN:
		return "bool"
	default:
		return "int"
	}
}

// registerForm returns the form and the number of registers of a data type. A limit must
// agree with a type of fixed width. Errors name the type as the manifest does.
func registerForm(r *devices.Reader, name, dataType string, limit int) (form, int) {
	if w, ok := dataTypes[name]; ok {
		if limit != 0 && limit != w.words {
			r.Fail("limit", fmt.Sprintf("%d does not fit dataType %s, which has %d registers", limit, dataType, w.words))
		}
		return w.form, w.words
	}
	def := 1
	var f form
	switch name {
	case "int", "integer":
		f = formSigned
	case "uint":
		f = formUnsigned
	case "bcd":
		f = formBCD
	case "mod10k", "umod10k":
		f, def = formMod10k, 2
	case "float": // not in one register: see registerType
		f, def = formFloat, 2
	case "double":
		f, def = formFloat, 4
	case "string", "bytes":
		if limit == 0 {
			r.Fail("limit", fmt.Sprintf("is missing: the number of registers of the %s", dataType))
		}
		if name == "string" {
			return formText, limit
		}
		return formBytes, limit
	default:
		r.Fail("dataType", fmt.Sprintf("%q is not known", dataType))
	}
	if limit == 0 {
		limit = def
	}
	if limit > 4 || (limit == 3 && f == formFloat) {
		r.Fail("limit", fmt.Sprintf("%d registers cannot hold dataType %s", limit, dataType))
		limit = def
	}
	return f, limit
}

func parseByteOrder(r *devices.Reader, deviceOrder string) order {
	swaps := order{swapBytes: r.Bool(false, "isSwap"), swapRegisters: r.Bool(false, "isRegisterSwap")}
	s := r.Text("", "byteOrder")
	if s == "" && !r.Has("isSwap") && !r.Has("isRegisterSwap") {
		s = deviceOrder
	}
	if s == "" {
		return swaps
	}
	o, err := parseOrder(s)
	if err != nil {
		r.Fail("byteOrder", err.Error())
	}
	if swaps.swapBytes || swaps.swapRegisters {
		r.Fail("byteOrder", "cannot be used together with isSwap and isRegisterSwap")
	}
	return o
}

// decodeBits decodes a point of a table of bits from packed bits, starting at position at.
func (p *point) decodeBits(packed []byte, at int) (devices.Value, error) {
	var u uint64
	for i := 0; i < p.count; i++ {
		if packed[(at+i)/8]>>((at+i)%8)&1 == 1 {
			u |= 1 << i
		}
	}
	if p.count == 1 {
		return p.codec.boolValue(u == 1), nil
	}
	return p.codec.unsigned(u)
}

// encodeBits is the inverse of decodeBits. The result is packed from bit 0.
func (p *point) encodeBits(value string) ([]byte, error) {
	raw, err := p.codec.raw(value)
	if err != nil {
		return nil, err
	}
	if !raw.IsInt() {
		return nil, notValid("%q is not a multiple of the scale", value)
	}
	if raw.Sign() < 0 || raw.Num().BitLen() > p.count {
		return nil, &devices.Rejection{Reason: devices.ReasonOutOfBounds, Message: fmt.Sprintf("%s does not fit %d bits", value, p.count)}
	}
	u := raw.Num().Uint64()
	packed := make([]byte, (p.count+7)/8)
	for i := range packed {
		packed[i] = byte(u >> (8 * i))
	}
	return packed, nil
}
