package codec

import (
	"fmt"
	"strings"
)

// order is the byte order of a value in its registers. The zero order is big endian
// throughout (ABCD).
type order struct {
	swapBytes, swapRegisters bool
	// permutation, if set, applies to 8-byte values, and the swaps only to shorter ones:
	// byte i of the value is byte permutation[i] on the wire.
	permutation []int
}

// parseOrder reads ABCD, BADC, CDAB, DCBA (A is the most significant byte), or an
// order of eight letters such as CDABGHEF. Empty means ABCD.
func parseOrder(s string) (order, error) {
	s = strings.ToUpper(strings.TrimSpace(s))
	switch s {
	case "", "ABCD", "AB", "ABCDEFGH", "BIGENDIAN":
		return order{}, nil
	case "BADC", "BA", "BADCFEHG":
		return order{swapBytes: true}, nil
	case "CDAB", "GHEFCDAB":
		return order{swapRegisters: true}, nil
	case "DCBA", "HGFEDCBA", "LITTLEENDIAN":
		return order{swapBytes: true, swapRegisters: true}, nil
	}
	if len(s) != 8 {
		return order{}, fmt.Errorf("%q is not an order of bytes", s)
	}
	p := make([]int, 8)
	for i := range p {
		p[i] = strings.IndexByte(s, byte('A'+i))
		if p[i] < 0 {
			return order{}, fmt.Errorf("%q is not an order of bytes", s)
		}
	}
	o, err := parseOrder(narrow(s))
	if err != nil { // an order that exists for eight bytes only
		o = order{}
	}
	o.permutation = p
	return o, nil
}

// narrow returns the order of four letters in the first half of an order of eight.
func narrow(s string) string {
	b := []byte(s[:4])
	for i := range b {
		b[i] = 'A' + (b[i]-'A')%4
	}
	return string(b)
}

// gather converts bytes on the wire to a big-endian value. It does not change wire, which is the
// result if the order is the same.
func (o order) gather(wire []byte) []byte {
	if !o.swapBytes && !o.swapRegisters && o.permutation == nil {
		return wire
	}
	v := append(make([]byte, 0, 8), wire...)
	if o.permutation != nil && len(v) == 8 {
		for i, p := range o.permutation {
			v[i] = wire[p]
		}
		return v
	}
	o.swap(v)
	return v
}

// scatter is the inverse of gather.
func (o order) scatter(value []byte) []byte {
	w := append([]byte(nil), value...)
	if o.permutation != nil && len(w) == 8 {
		for i, p := range o.permutation {
			w[p] = value[i]
		}
		return w
	}
	o.swap(w)
	return w
}

func (o order) swap(b []byte) {
	if o.swapBytes {
		for i := 0; i+1 < len(b); i += 2 {
			b[i], b[i+1] = b[i+1], b[i]
		}
	}
	if o.swapRegisters {
		for i, j := 0, len(b)-2; i < j; i, j = i+2, j-2 {
			b[i], b[i+1], b[j], b[j+1] = b[j], b[j+1], b[i], b[i+1]
		}
	}
}
