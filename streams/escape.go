package streams

import (
	"encoding/hex"
	"fmt"
	"strings"
)

// EscapeToken encodes any string as one NATS subject token: the dots of Kubernetes names
// become '~', the empty string becomes NoValue, and every other byte that a token or a
// terminal cannot carry becomes '=' and two upper-case hexadecimal digits. Letters, digits
// and the common punctuation of Kubernetes names stay as they are, so that subjects remain
// readable. UnescapeToken decodes it.
func EscapeToken(s string) string {
	if s == "" {
		return NoValue
	}
	if s == NoValue {
		return "=5F"
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '.':
			b.WriteByte('~')
		case plain(c):
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "=%02X", c)
		}
	}
	return b.String()
}

// UnescapeToken is the inverse of EscapeToken. It returns an error for a token that
// EscapeToken does not produce, so that two subjects never name the same object.
func UnescapeToken(t string) (string, error) {
	if t == NoValue {
		return "", nil
	}
	var b strings.Builder
	for i := 0; i < len(t); i++ {
		switch c := t[i]; {
		case c == '~':
			b.WriteByte('.')
		case c == '=':
			if i+2 >= len(t) {
				return "", fmt.Errorf("token %q ends within an escape: %w", t, ErrSubject)
			}
			v, err := hex.DecodeString(t[i+1 : i+3])
			if err != nil {
				return "", fmt.Errorf("token %q has a bad escape: %w", t, ErrSubject)
			}
			b.WriteByte(v[0])
			i += 2
		default:
			b.WriteByte(c)
		}
	}
	s := b.String()
	if EscapeToken(s) != t {
		return "", fmt.Errorf("token %q is not in escaped form: %w", t, ErrSubject)
	}
	return s, nil
}

// plain reports whether a byte is not escaped. '~' and '=' are the escapes.
func plain(c byte) bool {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		return true
	}
	return c == '-' || c == '_' || c == ':'
}
