package wire

import (
	"encoding/binary"
	"fmt"

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

// Function 43 with MEI type 14 reads a unit's identification (MODBUS Application Protocol
// V1.1b3, 6.21).
const (
	funcCodeEncapsulated = 43
	meiIdentification    = 14
	// identificationHeader is the length of function, MEI type, code, conformity level, more
	// follows, next object and number of objects.
	identificationHeader = 7
)

// Identification is the reply to one request for the objects of a unit's identification.
type Identification struct {
	// Conformity is 1 if the unit has the basic objects only, 2 if it also has the regular ones,
	// 3 if it has further ones.
	Conformity byte
	// More reports that Next should be requested, too.
	More    bool
	Next    byte
	Objects map[byte][]byte
}

// ReadIdentification reads the objects of a category, 1 (basic), 2 (regular) or 3, from an
// object on. An exception is a *modbus.ModbusError.
func (u *Unit) ReadIdentification(category, object byte) (Identification, error) {
	request, err := u.packager.Encode(&modbus.ProtocolDataUnit{FunctionCode: funcCodeEncapsulated, Data: []byte{meiIdentification, category, object}})
	if err != nil {
		return Identification{}, err
	}
	reply, err := u.transport.Send(request)
	if err != nil {
		return Identification{}, err
	}
	pdu, err := u.decode(request, reply)
	if err != nil {
		return Identification{}, err
	}
	return parseIdentification(pdu.Data)
}

// parseIdentification decodes the data of a reply, whose length is that of its objects.
func parseIdentification(data []byte) (Identification, error) {
	if data[0] != meiIdentification {
		return Identification{}, fmt.Errorf("%w: MEI type %d, asked %d", ErrGarbled, data[0], meiIdentification)
	}
	id := Identification{Conformity: data[2] & 0x7f, More: data[3] == 0xff, Next: data[4], Objects: map[byte][]byte{}}
	for rest := data[identificationHeader-1:]; len(rest) > 0; {
		end := 2 + int(rest[1])
		id.Objects[rest[0]] = rest[2:end]
		rest = rest[end:]
	}
	return id, nil
}

// identificationLength returns the length of a reply from its own bytes, or more than are there
// if these do not tell it yet.
func identificationLength(reply []byte) int {
	if len(reply) < identificationHeader {
		return identificationHeader
	}
	n := identificationHeader
	for range reply[identificationHeader-1] {
		if len(reply) < n+2 {
			return n + 2
		}
		n += 2 + int(reply[n+1])
	}
	return n
}
