package wire

import (
	"encoding/binary"
	"fmt"

	"github.com/goburrow/modbus"
)

// framing encodes requests as frames and finds their replies among the received bytes.
type framing interface {
	// packager returns the encoder of requests to a unit and decoder of its replies.
	packager(unit byte) modbus.Packager
	// find looks for the reply to request in buf. It returns the reply, or nil if more bytes
	// are needed, and how many bytes of buf are consumed. After an error nothing that
	// follows can be decoded.
	find(request, buf []byte) (reply []byte, used int, err error)
	// numbered reports whether replies carry the transaction number of their request, so
	// that a late one cannot be mistaken for another.
	numbered() bool
}

const (
	mbapHeader = 7
	// maxPDU is the greatest length of a PDU (V1.1b3, 4.1).
	maxPDU = 253
)

// mbap is the framing of TCP, TLS and UDP. All units of a link share one sequence of
// transaction numbers.
type mbap struct{ last uint16 }

func (m *mbap) numbered() bool { return true }

func (m *mbap) packager(unit byte) modbus.Packager { return mbapUnit{m, unit} }

// find drops replies to earlier requests: they are late, not invalid.
func (m *mbap) find(request, buf []byte) ([]byte, int, error) {
	used := 0
	for {
		frame, n, err := nextFrame(buf[used:])
		if frame == nil || err != nil {
			return nil, used, err
		}
		used += n
		if binary.BigEndian.Uint16(frame) == binary.BigEndian.Uint16(request) {
			return frame, used, nil
		}
	}
}

// nextFrame returns the first complete frame of buf and its length, or nil if more bytes
// are needed.
func nextFrame(buf []byte) ([]byte, int, error) {
	if len(buf) < mbapHeader {
		return nil, 0, nil
	}
	length := int(binary.BigEndian.Uint16(buf[4:]))
	if binary.BigEndian.Uint16(buf[2:]) != 0 || length < 3 || length > 1+maxPDU {
		return nil, 0, fmt.Errorf("%w: header % x", ErrGarbled, buf[:mbapHeader])
	}
	if len(buf) < 6+length {
		return nil, 0, nil
	}
	return buf[:6+length], 6 + length, nil
}

// mbapUnit is the packager of one unit.
type mbapUnit struct {
	m    *mbap
	unit byte
}

func (u mbapUnit) Encode(pdu *modbus.ProtocolDataUnit) ([]byte, error) {
	u.m.last++
	adu := make([]byte, mbapHeader+1+len(pdu.Data))
	binary.BigEndian.PutUint16(adu, u.m.last)
	binary.BigEndian.PutUint16(adu[4:], uint16(2+len(pdu.Data)))
	adu[6], adu[7] = u.unit, pdu.FunctionCode
	copy(adu[8:], pdu.Data)
	return adu, nil
}

// Verify accepts an exception from unit 0 or 255, too: gateways send it for a unit that
// they do not reach.
func (u mbapUnit) Verify(request, reply []byte) error {
	unit, failed := reply[6], reply[7]&0x80 != 0
	if unit != u.unit && !(failed && (unit == 0 || unit == 255)) {
		return fmt.Errorf("%w: from unit %d, asked %d", ErrGarbled, unit, u.unit)
	}
	return verifyPDU(request[7:], reply[7:])
}

func (u mbapUnit) Decode(adu []byte) (*modbus.ProtocolDataUnit, error) {
	return &modbus.ProtocolDataUnit{FunctionCode: adu[7], Data: adu[8:]}, nil
}

// verifyPDU compares the function code and the exact length of a reply with its request.
// It does not compare what a write echoes.
func verifyPDU(request, reply []byte) error {
	if reply[0] == request[0]|0x80 && len(reply) >= 2 {
		return nil
	}
	if reply[0] != request[0] {
		return fmt.Errorf("%w: function %d, asked %d", ErrGarbled, reply[0], request[0])
	}
	if want := replyLength(request, reply); len(reply) != want {
		return fmt.Errorf("%w: %d bytes, expected %d", ErrGarbled, len(reply), want)
	}
	if isRead(request[0]) && int(reply[1]) != len(reply)-2 {
		return fmt.Errorf("%w: byte count %d of %d bytes", ErrGarbled, reply[1], len(reply)-2)
	}
	return nil
}

func isRead(function byte) bool { return function >= 1 && function <= 4 }

// isWrite reports whether the reply to a function echoes the address of the request.
func isWrite(function byte) bool {
	switch function {
	case modbus.FuncCodeWriteSingleCoil, modbus.FuncCodeWriteSingleRegister, modbus.FuncCodeWriteMultipleCoils,
		modbus.FuncCodeWriteMultipleRegisters, modbus.FuncCodeMaskWriteRegister:
		return true
	}
	return false
}

// replyLength returns the length of the PDU that replies to a request without exception. Reply is
// what has been received of it, or more.
func replyLength(request, reply []byte) int {
	n := 0
	if len(request) >= 5 {
		n = int(binary.BigEndian.Uint16(request[3:]))
	}
	switch request[0] {
	case modbus.FuncCodeReadCoils, modbus.FuncCodeReadDiscreteInputs:
		return 2 + (n+7)/8
	case modbus.FuncCodeReadHoldingRegisters, modbus.FuncCodeReadInputRegisters:
		return 2 + 2*n
	case modbus.FuncCodeMaskWriteRegister:
		return 7
	case funcCodeEncapsulated:
		return identificationLength(reply)
	case funcCodeReportServerID:
		if len(reply) < 2 {
			return 2
		}
		return 2 + int(reply[1])
	case funcCodeReadExceptionStatus:
		return 2
	default: // writes echo address and value or count, and function 11 returns two numbers
		return 5
	}
}

// longestReply returns the length of the longest PDU that may reply to a request.
func longestReply(request []byte) int {
	if request[0] == funcCodeEncapsulated || request[0] == funcCodeReportServerID {
		return maxPDU
	}
	return replyLength(request, nil)
}
