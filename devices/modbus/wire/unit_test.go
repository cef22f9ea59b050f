package wire

import (
	"bytes"
	"errors"
	"testing"

	"github.com/goburrow/modbus"
)

var identificationPDU = modbus.ProtocolDataUnit{FunctionCode: 43, Data: []byte{14, 1, 0x81, 0xff, 2, 2, 0, 4, 'A', 'c', 'm', 'e', 1, 0}}

// The reply has no length: it is complete when all its objects are.
func TestIdentificationReplies(t *testing.T) {
	ask := &modbus.ProtocolDataUnit{FunctionCode: 43, Data: []byte{14, 1, 0}}
	for name, f := range map[string]framing{"rtu": rtu{}, "tcp": &mbap{}} {
		u := f.packager(5)
		request, err := u.Encode(ask)
		if err != nil {
			t.Fatal(err)
		}
		if m, ok := f.(*mbap); ok {
			m.last--
		}
		reply, err := u.Encode(&identificationPDU)
		if err != nil {
			t.Fatal(err)
		}
		for n := range reply {
			if found, _, err := f.find(request, reply[:n]); found != nil || err != nil {
				t.Fatalf("%s: %d of %d bytes are a reply: % x %v", name, n, len(reply), found, err)
			}
		}
		found, used, err := f.find(request, reply)
		if err != nil || !bytes.Equal(found, reply) || used != len(reply) || u.Verify(request, found) != nil {
			t.Fatalf("%s: % x %v", name, found, err)
		}
		pdu, err := u.Decode(found)
		if err != nil {
			t.Fatal(err)
		}
		id, err := parseIdentification(pdu.Data)
		if err != nil || id.Conformity != 1 || !id.More || id.Next != 2 || string(id.Objects[0]) != "Acme" || len(id.Objects) != 2 || len(id.Objects[1]) != 0 {
			t.Fatalf("%s: %+v %v", name, id, err)
		}
	}
	short := []byte{43, 14, 1, 1, 0, 0, 1, 0, 200, 'A'}
	if err := verifyPDU([]byte{43, 14, 1, 0}, short); !errors.Is(err, ErrGarbled) {
		t.Errorf("an object longer than the reply: %v", err)
	}
	if _, err := parseIdentification([]byte{13, 1, 1, 0, 0, 0}); !errors.Is(err, ErrGarbled) {
		t.Errorf("another MEI type: %v", err)
	}
}

// Whatever a unit replies to function 43/14: nothing crashes.
func FuzzIdentification(f *testing.F) {
	f.Add(append([]byte{43}, identificationPDU.Data...))
	f.Add([]byte{43, 14, 1, 1, 0, 0, 9, 0, 255})
	f.Add([]byte{0xab, 1})
	f.Fuzz(func(t *testing.T, reply []byte) {
		if len(reply) == 0 || reply[0] != funcCodeEncapsulated || verifyPDU([]byte{43, 14, 1, 0}, reply) != nil {
			return
		}
		id, err := parseIdentification(reply[1:])
		n := 0
		for _, b := range id.Objects {
			n += 2 + len(b)
		}
		if err == nil && n > len(reply)-identificationHeader {
			t.Fatalf("% x: %+v", reply, id)
		}
	})
}
