package codec

import (
	"strings"
	"unicode/utf8"
)

func (e encoding) encodeText(value string) ([]byte, error) {
	if strings.IndexByte(value, 0) >= 0 || len(value) > e.byteLen() {
		return nil, notValid("%q does not fit %d characters", value, e.byteLen())
	}
	return e.pack(append([]byte(value), make([]byte, e.byteLen()-len(value))...)), nil
}

// byteLen returns the number of bytes of a text or byte string.
func (e encoding) byteLen() int {
	if e.packing == packBoth {
		return 2 * e.registers
	}
	return e.registers
}

// unpack extracts the bytes of a text from its registers; pack is its inverse.
func (e encoding) unpack(wire []byte) []byte {
	b := append([]byte(nil), wire...)
	e.order.swap(b)
	if e.packing == packBoth {
		return b
	}
	out := make([]byte, 0, e.registers)
	for i := 0; i+1 < len(b); i += 2 {
		if e.packing == packHigh {
			out = append(out, b[i])
		} else {
			out = append(out, b[i+1])
		}
	}
	return out
}

func (e encoding) pack(b []byte) []byte {
	wire := append([]byte(nil), b...)
	if e.packing != packBoth {
		wire = make([]byte, 2*e.registers)
		for i, x := range b {
			if e.packing == packHigh {
				wire[2*i] = x
			} else {
				wire[2*i+1] = x
			}
		}
	}
	e.order.swap(wire)
	return wire
}

// text converts bytes up to the first NUL. Bytes that are not UTF-8 are read as Latin-1.
func text(b []byte) string {
	if i := strings.IndexByte(string(b), 0); i >= 0 {
		b = b[:i]
	}
	if utf8.Valid(b) {
		return string(b)
	}
	r := make([]rune, len(b))
	for i, x := range b {
		r[i] = rune(x)
	}
	return string(r)
}
