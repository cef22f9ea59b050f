package modbus

import (
	"strings"
	"unicode/utf8"
)

func (c codec) encodeText(value string) ([]byte, error) {
	if strings.IndexByte(value, 0) >= 0 || len(value) > c.byteLen() {
		return nil, notValid("%q does not fit %d characters", value, c.byteLen())
	}
	return c.pack(append([]byte(value), make([]byte, c.byteLen()-len(value))...)), nil
}

// byteLen returns the number of bytes of a text or byte string.
func (c codec) byteLen() int {
	if c.packing == packBoth {
		return 2 * c.registers
	}
	return c.registers
}

// unpack extracts the bytes of a text from its registers; pack is its inverse.
func (c codec) unpack(wire []byte) []byte {
	b := append([]byte(nil), wire...)
	c.order.swap(b)
	if c.packing == packBoth {
		return b
	}
	out := make([]byte, 0, c.registers)
	for i := 0; i+1 < len(b); i += 2 {
		if c.packing == packHigh {
			out = append(out, b[i])
		} else {
			out = append(out, b[i+1])
		}
	}
	return out
}

func (c codec) pack(b []byte) []byte {
	wire := append([]byte(nil), b...)
	if c.packing != packBoth {
		wire = make([]byte, 2*c.registers)
		for i, x := range b {
			if c.packing == packHigh {
				wire[2*i] = x
			} else {
				wire[2*i+1] = x
			}
		}
	}
	c.order.swap(wire)
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
