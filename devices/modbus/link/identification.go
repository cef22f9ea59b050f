package link

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/goburrow/modbus"

	"github.com/petiole-io/petiole/devices/modbus/wire"
)

// identificationNames are the names of the basic objects (0 to 2) and the regular ones, by their
// ids (MODBUS Application Protocol V1.1b3, 6.21).
var identificationNames = [...]string{"vendorName", "productCode", "revision", "vendorUrl", "productName", "modelName", "userApplicationName"}

const (
	firstRegularObject = 3
	// maxIdentificationRequests bounds the requests to a unit that always has more to follow.
	maxIdentificationRequests = 8
)

// Identify reads a unit's identification with function 43/14: the basic objects, and the
// regular ones if the unit has them. It is one attempt: a unit that does not know the function is
// allowed not to reply.
func Identify(u *Unit) (map[string]string, error) {
	found := map[string]string{}
	category, object := byte(1), byte(0)
	for range maxIdentificationRequests {
		id, err := readIdentification(u, category, object)
		if err != nil && category == 1 {
			return nil, err
		}
		if err != nil {
			break // the basic objects are known
		}
		for i, name := range identificationNames {
			if text := identificationText(id.Objects[byte(i)]); text != "" {
				found[name] = text
			}
		}
		switch {
		case id.More && id.Next > object:
			object = id.Next
		case category == 1 && id.Conformity > 1:
			category, object = 2, firstRegularObject
		default:
			return found, nil
		}
	}
	return found, nil
}

func readIdentification(u *Unit, category, object byte) (id wire.Identification, err error) {
	_, err = u.call(false, func(modbus.Client) (_ []byte, err error) {
		id, err = u.peer.wire.ReadIdentification(category, object)
		return nil, err
	})
	return id, err
}

// identificationText returns the printable characters of an object, which is ASCII by the
// standard and Latin-1 or UTF-8 in practice.
func identificationText(b []byte) string {
	if !utf8.Valid(b) {
		b = latin1(b)
	}
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, string(b)))
}

// latin1 returns Latin-1 as UTF-8.
func latin1(b []byte) []byte {
	var out []byte
	for _, c := range b {
		out = utf8.AppendRune(out, rune(c))
	}
	return out
}
