package modbus

import (
	"context"
	"encoding/binary"
	"errors"
	"time"

	"github.com/goburrow/modbus"

	"github.com/petiole-io/petiole/devices/modbus/codec"
)

// pendingRead is a read that was sent and has no reply yet.
type pendingRead struct {
	job      *job
	unit     *unit
	request  []byte
	begin    time.Time
	deadline time.Time
}

// pipelined reports whether a job may be in flight together with others.
func pipelined(j *job) bool { return j.read != nil && j.settings.window > 1 }

// pipeline sends a read, and further ones from the queue without waiting for the replies
// of earlier ones, as many as the settings' window allows, until none is left. Replies may
// come in any order: the transaction number identifies them (MODBUS Messaging on TCP/IP
// V1.0b, 4.2).
func (l *link) pipeline(ctx context.Context, j *job) {
	pending := map[uint16]*pendingRead{}
	l.sendRead(ctx, j, pending)
	for len(pending) > 0 {
		for {
			n := len(pending)
			j := l.queue.next(func(j *job) bool { return pipelined(j) && n < j.settings.window })
			if j == nil {
				break
			}
			if !j.claim() {
				j.finish(errStopped)
				continue
			}
			l.sendRead(ctx, j, pending)
		}
		if len(pending) > 0 {
			l.receiveReply(ctx, pending)
		}
	}
}

// sendRead sends a read. It ends the job at once if the unit is silent and another read of
// it is pending.
func (l *link) sendRead(ctx context.Context, j *job, pending map[uint16]*pendingRead) {
	p := l.peer(j.unit)
	if !p.breaker.allows(time.Now()) || (p.breaker.open() && unitPending(pending, j.unit)) {
		j.finish(errSilent)
		return
	}
	if err := l.connect(ctx, j.settings); err != nil {
		j.finish(err)
		return
	}
	u := &unit{link: l, ctx: ctx, id: j.unit, settings: j.settings, peer: p}
	request, err := p.packager.Encode(j.read.pdu())
	if err != nil {
		j.finish(err)
		return
	}
	f := &pendingRead{job: j, unit: u, request: request, begin: time.Now()}
	f.deadline = f.begin.Add(u.timeout())
	l.wire.traced = j.settings.trace
	if len(pending) == 0 {
		l.wire.received = false
	}
	pending[binary.BigEndian.Uint16(request)] = f
	if err := l.wire.write(request, f.deadline); err != nil {
		l.wire.disconnect()
		l.failPending(ctx, pending, err)
	}
}

func unitPending(pending map[uint16]*pendingRead, unit byte) bool {
	for _, f := range pending {
		if f.job.unit == unit {
			return true
		}
	}
	return false
}

// receiveReply waits for the next reply or timeout.
func (l *link) receiveReply(ctx context.Context, pending map[uint16]*pendingRead) {
	var until time.Time
	for _, f := range pending {
		if until.IsZero() || f.deadline.Before(until) {
			until = f.deadline
		}
	}
	frame, err := l.wire.receiveFrame(until)
	l.wire.end = time.Now()
	switch {
	case err == nil:
		l.wire.answered = true
		id := binary.BigEndian.Uint16(frame)
		if f := pending[id]; f != nil { // otherwise its request has timed out
			delete(pending, id)
			f.finish(l, frame)
		}
		if l.wire.conn == nil { // the reply was invalid, and finish has closed the connection
			l.failPending(ctx, pending, errClosed)
		}
	case errors.Is(err, errTimeout):
		for id, f := range pending {
			if !f.deadline.After(l.wire.end) {
				delete(pending, id)
				f.job.finish(l.recordOutcome(f.unit, errTimeout))
			}
		}
		if l.wire.conn == nil {
			l.failPending(ctx, pending, errClosed)
		}
	default:
		l.wire.disconnect()
		l.failPending(ctx, pending, err)
	}
}

// failPending ends all pending reads of a connection that was lost. With errClosed it
// executes them again instead, one at a time.
func (l *link) failPending(ctx context.Context, pending map[uint16]*pendingRead, err error) {
	switch {
	case errors.Is(err, errClosed):
	case errors.Is(err, errGarbled):
		l.garbled(err)
	default:
		l.down(err)
	}
	for id, f := range pending {
		delete(pending, id)
		if errors.Is(err, errClosed) {
			f.job.finish(l.execute(ctx, f.job))
			continue
		}
		f.job.finish(err)
	}
}

// finish verifies and decodes a reply, as goburrow's client does, and ends the job.
func (f *pendingRead) finish(l *link, frame []byte) {
	p := f.unit.peer
	err := p.packager.Verify(f.request, frame)
	var pdu *modbus.ProtocolDataUnit
	if err == nil {
		pdu, err = p.packager.Decode(frame)
	}
	if err == nil && pdu.FunctionCode&0x80 != 0 {
		err = &modbus.ModbusError{FunctionCode: pdu.FunctionCode, ExceptionCode: pdu.Data[0]}
	}
	if err == nil {
		f.unit.recordLatency(l.wire.end.Sub(f.begin))
		f.job.read.data = pdu.Data[1:]
	}
	f.job.read.at = f.begin.Add(l.wire.end.Sub(f.begin) / 2)
	f.job.finish(l.recordOutcome(f.unit, err))
}

// pdu encodes a read request (MODBUS Application Protocol V1.1b3, 6.1 to 6.4).
func (a *readRequest) pdu() *modbus.ProtocolDataUnit {
	function := map[codec.Table]byte{
		codec.Coils: modbus.FuncCodeReadCoils, codec.Discretes: modbus.FuncCodeReadDiscreteInputs,
		codec.Holdings: modbus.FuncCodeReadHoldingRegisters, codec.Inputs: modbus.FuncCodeReadInputRegisters,
	}[a.table]
	data := binary.BigEndian.AppendUint16(nil, uint16(a.start))
	return &modbus.ProtocolDataUnit{FunctionCode: function, Data: binary.BigEndian.AppendUint16(data, uint16(a.count))}
}
