package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/goburrow/modbus"
)

// Functions of serial lines that address no register and change nothing (MODBUS Application
// Protocol V1.1b3, 6.7, 6.9 and 6.13).
const (
	funcCodeReadExceptionStatus = 7
	funcCodeGetCommEventCounter = 11
	funcCodeReportServerID      = 17
)

// discardStale waits for late replies that may still come to a line without transaction
// numbers, and drops them: those to requests of the line's last user, and those to earlier
// requests to the same unit. It returns the shapes of the replies that the unit still owes, none
// of which is that of the reply to request.
//
// If the reply to request could be one that is owed, discardStale sends a marker first: a
// request whose reply looks like none of them. A unit replies to its requests in order, so that
// after the marker's reply no earlier one can come. Without that reply request is not sent.
func (t *Transport) discardStale(request []byte) ([]shape, error) {
	if t.framing.numbered() {
		if t.datagram {
			t.buf = t.buf[:0]
		}
		return nil, nil
	}
	quiet := max(t.silence, minQuiet)
	for others := t.firstOpened.Add(t.MaxTimeout); time.Now().Before(others); {
		if err := t.discardUntil(others, quiet); err != nil {
			return nil, err
		}
	}
	owed, until := t.unanswered.of(request[0], time.Now())
	if len(owed) > 0 {
		if err := t.discardUntil(until, quiet); err != nil {
			return nil, err
		}
	}
	t.buf = t.buf[:0]
	if err := t.drain(); err != nil || !slices.Contains(owed, replyShape(request)) {
		return owed, err
	}
	marker := markerFor(request, owed)
	if marker == nil {
		return nil, fmt.Errorf("%w: request not sent, since its reply could not be told from late ones", ErrTimeout)
	}
	written := t.written
	_, err := t.exchange(marker, owed)
	if t.written = written; err != nil { // the marker is no request of the caller's
		return nil, err
	}
	t.unanswered.clear(request[0])
	t.buf = t.buf[:0]
	return nil, t.drain()
}

// markerFor returns a request to the same unit whose reply is told from all owed ones, or nil
// if there is none: a part of a read, or else a function that addresses no register, to which
// a unit that does not know it replies with an exception.
func markerFor(request []byte, owed []shape) []byte {
	for _, pdu := range append(partsOf(request[1:len(request)-2]), []byte{funcCodeReportServerID}, []byte{funcCodeGetCommEventCounter}, []byte{funcCodeReadExceptionStatus}) {
		frame := rtuFrame(request[0], pdu)
		if !slices.Contains(owed, replyShape(frame)) {
			return frame
		}
	}
	return nil
}

// partsOf returns the reads of the first registers or bits of a read, one for each length of
// a reply: even numbers of registers first, because devices may refuse half of a value.
func partsOf(pdu []byte) [][]byte {
	if !isRead(pdu[0]) {
		return nil
	}
	count, step := int(binary.BigEndian.Uint16(pdu[3:])), 2
	if pdu[0] == modbus.FuncCodeReadCoils || pdu[0] == modbus.FuncCodeReadDiscreteInputs {
		step = 8
	}
	var parts [][]byte
	for n := step; n < count; n += step {
		parts = append(parts, binary.BigEndian.AppendUint16(slices.Clone(pdu[:3]), uint16(n)))
	}
	if count > 1 {
		parts = append(parts, binary.BigEndian.AppendUint16(slices.Clone(pdu[:3]), 1))
	}
	return parts
}

// shape is what all replies have in common that cannot be told from each other: the function,
// and the number of bytes that a read returns or the address that a write echoes.
type shape struct {
	function byte
	detail   uint16
}

// replyShape returns the shape of the reply to a request that is no exception.
func replyShape(request []byte) shape {
	pdu := request[1 : len(request)-2]
	switch {
	case isRead(pdu[0]):
		return shape{pdu[0], uint16(replyLength(pdu, nil))}
	case isWrite(pdu[0]):
		return shape{pdu[0], binary.BigEndian.Uint16(pdu[1:])}
	default:
		return shape{pdu[0], 0}
	}
}

// distinct reports whether a reply that fits request is none of the owed ones, none of which
// has the shape of the reply to request. An exception may be that to any request with its function.
func distinct(request, reply []byte, owed []shape) bool {
	switch {
	case len(owed) == 0:
		return true
	case reply[1] != request[1]:
		return !slices.ContainsFunc(owed, func(s shape) bool { return s.function == request[1] })
	case isWrite(request[1]):
		return binary.BigEndian.Uint16(reply[2:]) == binary.BigEndian.Uint16(request[2:])
	default:
		return true
	}
}

// discardUntil drops received bytes until a time or, once some came, until the line has
// been silent for quiet. It gives up on a line that is never silent.
func (t *Transport) discardUntil(until time.Time, quiet time.Duration) error {
	for limit := until.Add(t.MaxTimeout); time.Now().Before(until) && until.Before(limit.Add(quiet)); {
		if err := t.conn.SetDeadline(until); err != nil {
			return t.ioError(err)
		}
		err := t.receive()
		t.buf = t.buf[:0]
		switch {
		case errors.Is(err, ErrTimeout):
			return nil
		case err != nil:
			return err
		}
		until = time.Now().Add(quiet)
	}
	return nil
}
