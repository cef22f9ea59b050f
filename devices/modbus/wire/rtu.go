package wire

import (
	"encoding/binary"
	"fmt"

	"github.com/goburrow/modbus"
)

// rtu is the framing of serial lines and of RTU over TCP. Frames have no number and no
// length: a reply is found by its unit, function, expected length and checksum, wherever
// it starts, so that noise and the local echo of two-wire adapters do no harm.
type rtu struct{}

const rtuEnvelope = 3 // unit and checksum

func (rtu) numbered() bool { return false }

func (rtu) packager(unit byte) modbus.Packager { return rtuUnit{unit} }

func (rtu) find(request, buf []byte) ([]byte, int, error) {
	pdu := request[1 : len(request)-2]
	for i := range buf {
		rest := buf[i:]
		if len(rest) < 5 {
			break
		}
		if rest[0] != request[0] {
			continue
		}
		want := replyLength(pdu, rest[1:]) + rtuEnvelope
		switch {
		case rest[1] == pdu[0]|0x80 && checksumOK(rest[:5]):
			return rest[:5], i + 5, nil
		case rest[1] != pdu[0] || len(rest) < want || !checksumOK(rest[:want]):
		case isRead(pdu[0]) && int(rest[2]) != want-rtuEnvelope-2:
		default:
			return rest[:want], i + want, nil
		}
	}
	return nil, 0, nil
}

// rtuUnit is the packager of one unit.
type rtuUnit struct{ unit byte }

func (u rtuUnit) Encode(pdu *modbus.ProtocolDataUnit) ([]byte, error) {
	return rtuFrame(u.unit, append([]byte{pdu.FunctionCode}, pdu.Data...)), nil
}

// rtuFrame returns the frame of a PDU.
func rtuFrame(unit byte, pdu []byte) []byte {
	adu := append([]byte{unit}, pdu...)
	return binary.LittleEndian.AppendUint16(adu, crc(adu))
}

func (u rtuUnit) Verify(request, reply []byte) error {
	if reply[0] != u.unit {
		return fmt.Errorf("%w: from unit %d, asked %d", ErrGarbled, reply[0], u.unit)
	}
	return verifyPDU(request[1:len(request)-2], reply[1:len(reply)-2])
}

func (u rtuUnit) Decode(adu []byte) (*modbus.ProtocolDataUnit, error) {
	return &modbus.ProtocolDataUnit{FunctionCode: adu[1], Data: adu[2 : len(adu)-2]}, nil
}

func checksumOK(frame []byte) bool {
	n := len(frame) - 2
	return binary.LittleEndian.Uint16(frame[n:]) == crc(frame[:n])
}

var crcTable = func() (t [256]uint16) {
	for i := range t {
		c := uint16(i)
		for range 8 {
			if c&1 == 1 {
				c = c>>1 ^ 0xa001
			} else {
				c >>= 1
			}
		}
		t[i] = c
	}
	return t
}()

// crc returns the checksum of a frame (Modbus over Serial Line V1.02, 6.2.2).
func crc(b []byte) uint16 {
	c := uint16(0xffff)
	for _, x := range b {
		c = c>>8 ^ crcTable[byte(c)^x]
	}
	return c
}
