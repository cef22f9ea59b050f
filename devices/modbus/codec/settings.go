package codec

import (
	"fmt"
	"math/big"
	"strconv"
	"strings"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// Defaults are a device's settings that apply to those of its points which do not have
// them. The zero Defaults are those of a device without such settings.
type Defaults struct {
	addressing string
	order      string
	signed     bool
	// notAvailable is missingSunSpec or missingNone.
	notAvailable string
}

// ReadDefaults reads the settings of a device:
//
//	addressing zero  how visitors count: zero, one, or modicon (40001, 400001)
//	signed false     whether dataType int, INT without one, and dataType float and double in
//	                 a single register are signed
//	byteOrder ABCD
//	notAvailable none  sunspec: the numbers that SunSpec defines as "not implemented" are no values
func ReadDefaults(r *devices.Reader) Defaults {
	d := Defaults{
		addressing: readAddressing(r, addressZero), order: r.Text("", "byteOrder"), signed: r.Bool(false, "signed"),
		notAvailable: r.Choice(missingNone, []string{missingNone, missingSunSpec}, "notAvailable"),
	}
	if _, err := parseOrder(d.order); err != nil {
		r.Fail("byteOrder", err.Error())
	}
	return d
}

// readBits reads the encoding of coils and discrete inputs: one is a boolean, several are a
// number whose least significant bit is the first.
func readBits(r *devices.Reader, typ v1beta1.PropertyType, limit int) (encoding, int) {
	count := max(limit, 1)
	e := encoding{conversion: conversion{typ: typ}, form: formBool}
	// KubeEdge's manifests have these settings in every property.
	r.Has("dataType", "isSwap", "isRegisterSwap")
	if r.Has("notAvailable") {
		r.Fail("notAvailable", "does not apply to coils and discrete inputs")
	}
	if count > 1 {
		e.form = formUnsigned
	}
	e.scale = readScale(r, e.form, typ)
	readNames(r, &e)
	if count == 1 {
		return e, 1
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
	return e, count
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

func readEncoding(r *devices.Reader, typ v1beta1.PropertyType, limit int, d Defaults) encoding {
	signed := r.Bool(d.signed, "signed")
	def := defaultType(typ, limit, signed || !r.Has("signed"))
	if r.Has("values", "enum", "bitNames", "bits") {
		def = "int"
	}
	if r.Has("scaleRegister") && !r.Has("dataType") {
		r.Fail("dataType", "is missing: with scaleRegister say int16, uint16, int32 or uint32")
	}
	dataType := strings.ToLower(r.Text(def, "dataType"))
	name := registerType(dataType, limit, signed)
	if r.Has("bit") && (!r.Has("dataType") || name == "bool" || name == "boolean") {
		name = "bit"
	}
	e := encoding{conversion: conversion{typ: typ}, layout: layout{order: readOrder(r, d.order)}, bit: uint(r.Int(0, 0, 15, "bit")), unsignedDigits: name == "t5" || name == "umod10k"}
	e.packing = map[string]packing{"both": packBoth, "high": packHigh, "low": packLow}[r.Choice("both", []string{"both", "high", "low"}, "packing")]
	e.form, e.registers = registerForm(r, name, dataType, limit)
	e.time, e.bits = timestamps[name].timestamp, readGroup(r, e)
	if e.form == formText {
		e.text = readText(r)
	}
	if e.registers != 4 && len(r.Text("", "byteOrder")) == 8 {
		r.Fail("byteOrder", fmt.Sprintf("has eight letters, the value has %d bytes", 2*e.registers))
	}
	eight := name == "int8" || name == "uint8"
	switch {
	case eight && e.packing == packBoth:
		e.packing = packLow
	case !eight && e.form != formText && e.form != formBytes:
		e.packing = packBoth
	}
	switch {
	case typ == v1beta1.BYTES && e.form != formBytes:
		r.Fail("dataType", fmt.Sprintf("%s does not give BYTES", dataType))
	case e.form == formBytes && typ != v1beta1.BYTES && typ != v1beta1.STRING:
		r.Fail("dataType", fmt.Sprintf("bytes do not give %s", typ))
	case (e.form == formText || e.form == formTime) && typ != v1beta1.STRING:
		r.Fail("dataType", fmt.Sprintf("%s does not give %s: the type of the property must be STRING", dataType, typ))
	}
	e.scale = readScale(r, e.form, typ)
	readNames(r, &e)
	e.missing = readMissing(r, e, d)
	return e
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
	if t, ok := timestamps[name]; ok {
		if limit != 0 && limit != t.registers {
			r.Fail("limit", fmt.Sprintf("%d does not fit dataType %s, which has %d registers", limit, dataType, t.registers))
		}
		return formTime, t.registers
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

// readGroup reads which bits of a number are the value.
func readGroup(r *devices.Reader, e encoding) (g group) {
	text := r.Text("", "bits")
	if text == "" {
		return g
	}
	low, high, ok := strings.Cut(text, "-")
	if !ok {
		high = low
	}
	first, err1 := strconv.ParseUint(strings.TrimSpace(low), 10, 8)
	last, err2 := strconv.ParseUint(strings.TrimSpace(high), 10, 8)
	switch most := uint64(16*e.registers - 1); {
	case err1 != nil || err2 != nil || first > last:
		r.Fail("bits", fmt.Sprintf("%q is not of the form 4-6", text))
	case e.form != formSigned && e.form != formUnsigned:
		r.Fail("bits", "apply to integers only")
	case r.Has("bit") || r.Has("packing"):
		r.Fail("bits", "cannot be used together with bit or packing")
	case last > most:
		r.Fail("bits", fmt.Sprintf("%q: the data type has the bits 0 to %d", text, most))
	default:
		return group{uint(first), uint(last - first + 1)}
	}
	return g
}

// readNames reads the names of numbers or bits.
func readNames(r *devices.Reader, e *encoding) {
	names, bits := r.Names("values", "enum"), r.Names("bitNames")
	if names == nil && bits == nil {
		return
	}
	setting := "values"
	if names == nil {
		setting = "bitNames"
	}
	integer := e.form == formSigned || e.form == formUnsigned || e.form == formBCD || e.form == formBit || e.form == formBool
	switch {
	case names != nil && bits != nil:
		r.Fail("values", "cannot be used together with bitNames")
	case e.typ != v1beta1.STRING:
		r.Fail(setting, fmt.Sprintf("give texts, not %s: the type of the property must be STRING", e.typ))
	case !integer || bits != nil && e.form != formUnsigned:
		r.Fail(setting, "apply to integers only")
	case e.scale.on:
		r.Fail(setting, "cannot be used together with scale or valueOffset")
	}
	for i, name := range bits {
		if i < 0 || i > 63 {
			r.Fail("bitNames", fmt.Sprintf("%d is not a bit from 0 to 63", i))
		}
		if _, number := decimal(name); number {
			r.Fail("bitNames", fmt.Sprintf("%q is a number", name))
		}
	}
	for n, name := range names {
		if other, number := decimal(name); number && other.Cmp(new(big.Rat).SetInt64(n)) != 0 {
			r.Fail("values", fmt.Sprintf("%q, the name of %d, is another number", name, n))
		}
	}
	e.names, e.bitNames = names, bits
}

func readOrder(r *devices.Reader, deviceOrder string) order {
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
