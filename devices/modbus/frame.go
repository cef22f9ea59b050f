package modbus

import (
	"encoding/binary"
	"fmt"

	"github.com/goburrow/modbus"
)

// framing is how a request travels as bytes and how its answer is found in what
// comes back.
type framing interface {
	// packager encodes for a unit and checks and decodes its answers.
	packager(unit byte) modbus.Packager
	// find looks for the answer to request in buf. It returns the answer, or nil when
	// more is needed, and how many bytes of buf are done with. An error means that
	// nothing that follows can be understood.
	find(request, buf []byte) (answer []byte, used int, err error)
	// numbered tells that answers carry the number of their request, so that a late
	// one cannot be taken for another.
	numbered() bool
}

const (
	mbapHeader = 7
	// maxPDU is the most that a frame carries besides its envelope (V1.1b3, 4.1).
	maxPDU = 253
)

// mbap is the framing of TCP, TLS and UDP. Transactions are numbered through a
// link, so that one number serves all units behind it.
type mbap struct{ last uint16 }

func (m *mbap) numbered() bool { return true }

func (m *mbap) packager(unit byte) modbus.Packager { return mbapUnit{m, unit} }

// find drops answers to earlier requests: they are late, not wrong.
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

// nextFrame is the first whole frame of buf, nil when more is needed, and its length.
func nextFrame(buf []byte) ([]byte, int, error) {
	if len(buf) < mbapHeader {
		return nil, 0, nil
	}
	length := int(binary.BigEndian.Uint16(buf[4:]))
	if binary.BigEndian.Uint16(buf[2:]) != 0 || length < 3 || length > 1+maxPDU {
		return nil, 0, fmt.Errorf("%w: header % x", errGarbled, buf[:mbapHeader])
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

// Verify accepts an exception from unit 0 or 255 too: gateways answer so for a unit
// that they do not reach.
func (u mbapUnit) Verify(request, answer []byte) error {
	unit, failed := answer[6], answer[7]&0x80 != 0
	if unit != u.unit && !(failed && (unit == 0 || unit == 255)) {
		return fmt.Errorf("%w: from unit %d, asked %d", errGarbled, unit, u.unit)
	}
	return verifyPDU(request[7:], answer[7:])
}

func (u mbapUnit) Decode(adu []byte) (*modbus.ProtocolDataUnit, error) {
	return &modbus.ProtocolDataUnit{FunctionCode: adu[7], Data: adu[8:]}, nil
}

// verifyPDU holds an answer against its request: the function, and the exact number
// of bytes. What a write echoes is for the caller to compare.
func verifyPDU(request, answer []byte) error {
	if answer[0] == request[0]|0x80 && len(answer) >= 2 {
		return nil
	}
	if answer[0] != request[0] {
		return fmt.Errorf("%w: function %d, asked %d", errGarbled, answer[0], request[0])
	}
	if want := answerLength(request); len(answer) != want {
		return fmt.Errorf("%w: %d bytes, expected %d", errGarbled, len(answer), want)
	}
	if isRead(request[0]) && int(answer[1]) != len(answer)-2 {
		return fmt.Errorf("%w: byte count %d of %d bytes", errGarbled, answer[1], len(answer)-2)
	}
	return nil
}

func isRead(function byte) bool { return function >= 1 && function <= 4 }

// answerLength is the length of the PDU that answers a request without exception.
func answerLength(request []byte) int {
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
	default: // writes echo address and value or count
		return 5
	}
}
