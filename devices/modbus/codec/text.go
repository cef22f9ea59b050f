package codec

import (
	"encoding/binary"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/petiole-io/petiole/devices"
)

// The choices of the setting charset.
const (
	charsetAuto   = "auto"   // UTF-8; what is none is read as Latin-1
	charsetLatin1 = "latin1" // ISO 8859-1
	charsetUTF16  = "utf-16" // one unit in each register
)

// textSettings is how characters are in the bytes of a text.
type textSettings struct {
	charset string
	keep    bool // blanks at both ends belong to the text
	blanks  bool // a text is filled up with blanks, not NULs
}

// readText reads how characters are in registers:
//
//	trim true     blanks at both ends do not belong to the text
//	charset auto  UTF-8, or Latin-1 if it is not valid UTF-8; or latin1, utf-16
//	padding nul   what a text that is written is filled up with: nul or blank
func readText(r *devices.Reader) textSettings {
	charset := r.Choice(charsetAuto, []string{charsetAuto, charsetLatin1, charsetUTF16, "utf16", "utf-8", "utf8"}, "charset")
	switch charset {
	case "utf16":
		charset = charsetUTF16
	case "utf-8", "utf8":
		charset = charsetAuto
	}
	return textSettings{
		charset: charset, keep: !r.Bool(true, "trim"),
		blanks: r.Choice("nul", []string{"nul", "blank"}, "padding") == "blank",
	}
}

// decode converts the bytes up to the first NUL.
func (t textSettings) decode(b []byte) (devices.Value, error) {
	return devices.String(t.trimmed(t.characters(b))), nil
}

func (t textSettings) characters(b []byte) string {
	if t.charset == charsetUTF16 {
		var units []uint16
		for ; len(b) >= 2; b = b[2:] {
			u := binary.BigEndian.Uint16(b)
			if u == 0 {
				break
			}
			units = append(units, u)
		}
		return string(utf16.Decode(units))
	}
	if i := strings.IndexByte(string(b), 0); i >= 0 {
		b = b[:i]
	}
	if t.charset == charsetAuto && utf8.Valid(b) {
		return string(b)
	}
	r := make([]rune, len(b))
	for i, x := range b {
		r[i] = rune(x)
	}
	return string(r)
}

// trimmed removes the blanks that do not belong to a text.
func (t textSettings) trimmed(s string) string {
	if t.keep {
		return s
	}
	return strings.Trim(s, " \t\r\n\u00a0")
}

// encode converts a text into n bytes.
func (t textSettings) encode(s string, n int) ([]byte, error) {
	var b []byte
	switch t.charset {
	case charsetUTF16:
		for _, u := range utf16.Encode([]rune(s)) {
			b = binary.BigEndian.AppendUint16(b, u)
		}
	case charsetLatin1:
		for _, r := range s {
			if r > 0xff {
				return nil, notValid("%q has a character that is not in Latin-1", s)
			}
			b = append(b, byte(r))
		}
	default:
		b = []byte(s)
	}
	if strings.ContainsRune(s, 0) || len(b) > n {
		if t.charset == charsetUTF16 {
			n /= 2
		}
		return nil, notValid("%q does not fit %d characters", s, n)
	}
	for len(b) < n {
		switch {
		case !t.blanks:
			b = append(b, 0)
		case t.charset == charsetUTF16:
			b = append(b, 0, ' ')
		default:
			b = append(b, ' ')
		}
	}
	return b, nil
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
