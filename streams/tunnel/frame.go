package tunnel

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// kind is the first byte of a frame. The values are on the wire.
type kind byte

const (
	// kindOpen opens a session: bytes is the receive window of the client.
	kindOpen kind = iota + 1
	// kindAccept answers it when the backend is connected: bytes is the receive window of the
	// server, rest its instance.
	kindAccept
	// kindData carries bytes from offset. The receiver may delay its acknowledgement.
	kindData
	// kindUrgent is kindData that is acknowledged at once: the sender waits for room on the line.
	kindUrgent
	// kindFinish follows the last byte: the sender continues to read.
	kindFinish
	// kindClose follows the last byte: the sender reads no more.
	kindClose
	// kindAck acknowledges what has arrived (offset) and what the reader has taken (bytes).
	kindAck
	// kindReset ends a session; rest is the reason.
	kindReset
	// kindPing asks whether the other end is there; kindPong answers with the instance.
	kindPing
	kindPong
)

// frame is one message of a session.
type frame struct {
	kind          kind
	offset, bytes uint64
	rest          []byte
}

var errFrame = errors.New("not a frame of a tunnel")

// encode returns the frame as a message: kind, offset and bytes as varints, rest.
func (f frame) encode() []byte {
	b := make([]byte, 1, 1+2*binary.MaxVarintLen64+len(f.rest))
	b[0] = byte(f.kind)
	b = binary.AppendUvarint(b, f.offset)
	b = binary.AppendUvarint(b, f.bytes)
	return append(b, f.rest...)
}

// decode is the inverse of encode. rest shares the memory of data.
func decode(data []byte) (frame, error) {
	if len(data) == 0 || data[0] < byte(kindOpen) || data[0] > byte(kindPong) {
		return frame{}, fmt.Errorf("first byte of %d: %w", len(data), errFrame)
	}
	f := frame{kind: kind(data[0])}
	data = data[1:]
	for _, v := range []*uint64{&f.offset, &f.bytes} {
		n := 0
		if *v, n = binary.Uvarint(data); n <= 0 {
			return frame{}, fmt.Errorf("kind %d: %w", f.kind, errFrame)
		}
		data = data[n:]
	}
	f.rest = data
	return f, nil
}
