package wire

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/goburrow/modbus"
)

// Whatever comes over a TCP connection: nothing crashes, nothing is used twice, and
// what is accepted is an exact answer to the request.
func FuzzTCPFrames(f *testing.F) {
	request := []byte{0, 7, 0, 0, 0, 6, 1, 3, 0, 0, 0, 2}
	f.Add([]byte{0, 7, 0, 0, 0, 7, 1, 3, 4, 1, 2, 3, 4})
	f.Add([]byte{0, 6, 0, 0, 0, 3, 1, 0x83, 2, 0, 7, 0, 0, 0, 3, 1, 0x83, 2})
	f.Add([]byte("HTTP/1.1 400 Bad Request\r\n"))
	f.Fuzz(func(t *testing.T, buf []byte) {
		m := &mbap{}
		answer, used, err := m.find(request, buf)
		if used > len(buf) || (err != nil && answer != nil) {
			t.Fatal(used, err)
		}
		checkAnswer(t, m.packager(1), request, answer, 9)
	})
}

// The same for serial lines, where an answer may begin anywhere.
func FuzzRTUFrames(f *testing.F) {
	u := rtuUnit{1}
	request, err := u.Encode(&modbus.ProtocolDataUnit{FunctionCode: 3, Data: []byte{0, 0, 0, 2}})
	if err != nil {
		f.Fatal(err)
	}
	answer, err := u.Encode(&modbus.ProtocolDataUnit{FunctionCode: 3, Data: []byte{4, 1, 2, 3, 4}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(answer)
	f.Add(append(bytes.Clone(request), answer...))
	f.Add([]byte{1, 0x83, 2, 0xc0, 0xf1})
	f.Fuzz(func(t *testing.T, buf []byte) {
		answer, used, err := rtu{}.find(request, buf)
		if used > len(buf) || err != nil {
			t.Fatal(used, err)
		}
		checkAnswer(t, u, request, answer, 3)
	})
}

func checkAnswer(t *testing.T, p modbus.Packager, request, answer []byte, data int) {
	if answer == nil || p.Verify(request, answer) != nil {
		return
	}
	pdu, err := p.Decode(answer)
	if err != nil {
		t.Fatal(err)
	}
	exception := pdu.FunctionCode == 0x83 && len(pdu.Data) > 0
	if !exception && (pdu.FunctionCode != 3 || len(pdu.Data) != 5 || pdu.Data[0] != 4) {
		t.Fatalf("%x is taken for an answer (%d)", answer, data)
	}
}

// Exceptions and lengths of every function.
func FuzzVerify(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 9}, []byte{1, 2, 0, 1})
	f.Add([]byte{16, 0, 0, 0, 1, 2, 0, 5}, []byte{16, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, request, answer []byte) {
		if len(request) < 5 || len(answer) < 1 || len(answer) > maxPDU {
			return
		}
		if verifyPDU(request, answer) == nil && isRead(request[0]) && answer[0] == request[0] {
			n := int(binary.BigEndian.Uint16(request[3:]))
			if request[0] <= 2 {
				n = (n + 7) / 8
			} else {
				n *= 2
			}
			if len(answer) != 2+n {
				t.Fatalf("%x for %x", answer, request)
			}
		}
	})
}
