package wire

import (
	"encoding/binary"

	"github.com/goburrow/modbus"
)

// Unit encodes requests to one unit and decodes its replies. Its Client runs one transaction
// for each call; with EncodeRead and DecodeRead several reads may be in flight.
type Unit struct {
	modbus.Client
	packager  modbus.Packager
	transport *Transport
}

// Unit returns the unit with an id. Units share the transport's connection.
func (t *Transport) Unit(id byte) *Unit {
	p := t.framing.packager(id)
	return &Unit{Client: modbus.NewClient2(p, t), packager: p, transport: t}
}

// EncodeRead returns the frame of a read (MODBUS Application Protocol V1.1b3, 6.1 to 6.4).
func (u *Unit) EncodeRead(function byte, start, count uint16) ([]byte, error) {
	data := binary.BigEndian.AppendUint16(nil, start)
	return u.packager.Encode(&modbus.ProtocolDataUnit{FunctionCode: function, Data: binary.BigEndian.AppendUint16(data, count)})
}

// DecodeRead verifies the reply to a read, as goburrow's client does, and returns the
// registers or bits that were read. An exception is a *modbus.ModbusError.
func (u *Unit) DecodeRead(request, reply []byte) ([]byte, error) {
	pdu, err := u.decode(request, reply)
	if err != nil {
		return nil, err
	}
	return pdu.Data[1:], nil
}

func (u *Unit) decode(request, reply []byte) (*modbus.ProtocolDataUnit, error) {
	if err := u.packager.Verify(request, reply); err != nil {
		return nil, err
	}
	pdu, err := u.packager.Decode(reply)
	if err != nil {
		return nil, err
	}
	if pdu.FunctionCode&0x80 != 0 {
		return nil, &modbus.ModbusError{FunctionCode: pdu.FunctionCode, ExceptionCode: pdu.Data[0]}
	}
	return pdu, nil
}

// TransactionNumber returns the number that a reply has in common with its request. Frames of
// serial lines have none.
func TransactionNumber(frame []byte) uint16 { return binary.BigEndian.Uint16(frame) }
