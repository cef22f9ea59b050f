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
func (l layout) byteLen() int {
	if l.packing == packBoth {
		return 2 * l.registers
	}
	return l.registers
}

// unpack extracts the bytes of a text from its registers; pack is its inverse.
func (l layout) unpack(wire []byte) []byte {
	b := append([]byte(nil), wire...)
	l.order.swap(b)
	if l.packing == packBoth {
		return b
	}
	out := make([]byte, 0, l.registers)
	for i := 0; i+1 < len(b); i += 2 {
		if l.packing == packHigh {
			out = append(out, b[i])
		} else {
			out = append(out, b[i+1])
		}
	}
	return out
}

func (l layout) pack(b []byte) []byte {
	wire := append([]byte(nil), b...)
	if l.packing != packBoth {
		wire = make([]byte, 2*l.registers)
		for i, x := range b {
			if l.packing == packHigh {
				wire[2*i] = x
			} else {
				wire[2*i+1] = x
			}
		}
	}
	l.order.swap(wire)
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
