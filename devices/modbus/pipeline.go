package modbus

import (
	"context"
	"encoding/binary"
	"errors"
	"time"

	"github.com/goburrow/modbus"
)

// flight is a read that was sent and not answered yet.
type flight struct {
	job      *job
	unit     *unit
	request  []byte
	begin    time.Time
	deadline time.Time
}

// pipelined tells that a job may be in flight together with others.
func pipelined(j *job) bool { return j.ask != nil && j.settings.window > 1 }

// pipeline sends reads without waiting for the answers of earlier ones, as many as
// the settings' window allows, beginning with one, until none is left that may join.
// Answers are told apart by their transaction number alone, whatever their order
// (MODBUS Messaging on TCP/IP V1.0b, 4.2).
func (l *link) pipeline(ctx context.Context, j *job) {
	flights := map[uint16]*flight{}
	l.launch(ctx, j, flights)
	for len(flights) > 0 {
		for {
			n := len(flights)
			j := l.queue.next(func(j *job) bool { return pipelined(j) && n < j.settings.window })
			if j == nil {
				break
			}
			if !j.take() {
				j.end(errStopped)
				continue
			}
			l.launch(ctx, j, flights)
		}
		if len(flights) > 0 {
			l.land(ctx, flights)
		}
	}
}

// launch sends a read. Of a silent unit one at a time is enough.
func (l *link) launch(ctx context.Context, j *job, flights map[uint16]*flight) {
	p := l.peer(j.unit)
	if !p.breaker.allows(time.Now()) || (p.breaker.open() && inFlight(flights, j.unit)) {
		j.end(errSilent)
		return
	}
	if err := l.connect(ctx, j.settings); err != nil {
		j.end(err)
		return
	}
	u := &unit{link: l, ctx: ctx, id: j.unit, settings: j.settings, peer: p}
	request, err := p.packager.Encode(j.ask.pdu())
	if err != nil {
		j.end(err)
		return
	}
	f := &flight{job: j, unit: u, request: request, begin: time.Now()}
	f.deadline = f.begin.Add(u.timeout())
	l.wire.traced = j.settings.trace
	if len(flights) == 0 {
		l.wire.heard = false
	}
	flights[binary.BigEndian.Uint16(request)] = f
	if err := l.wire.post(request, f.deadline); err != nil {
		l.wire.disconnect()
		l.crash(ctx, flights, err)
	}
}

func inFlight(flights map[uint16]*flight, unit byte) bool {
	for _, f := range flights {
		if f.job.unit == unit {
			return true
		}
	}
	return false
}

// land takes the next answer, or the next timeout.
func (l *link) land(ctx context.Context, flights map[uint16]*flight) {
	var until time.Time
	for _, f := range flights {
		if until.IsZero() || f.deadline.Before(until) {
			until = f.deadline
		}
	}
	frame, err := l.wire.next(until)
	l.wire.end = time.Now()
	switch {
	case err == nil:
		l.wire.proven = true
		id := binary.BigEndian.Uint16(frame)
		if f := flights[id]; f != nil { // else it is late
			delete(flights, id)
			f.finish(l, frame)
		}
		if l.wire.conn == nil { // the answer was such that nothing more is expected
			l.crash(ctx, flights, errClosed)
		}
	case errors.Is(err, errTimeout):
		for id, f := range flights {
			if !f.deadline.After(l.wire.end) {
				delete(flights, id)
				f.job.end(l.judge(f.unit, errTimeout))
			}
		}
		if l.wire.conn == nil {
			l.crash(ctx, flights, errClosed)
		}
	default:
		l.wire.disconnect()
		l.crash(ctx, flights, err)
	}
}

// crash ends all flights of a connection that is lost. Unless that is the fault of
// what was received, they are done again, one at a time.
func (l *link) crash(ctx context.Context, flights map[uint16]*flight, err error) {
	switch {
	case errors.Is(err, errClosed):
	case errors.Is(err, errGarbled):
		l.garbled(err)
	default:
		l.down(err)
	}
	for id, f := range flights {
		delete(flights, id)
		if errors.Is(err, errClosed) {
			f.job.end(l.execute(ctx, f.job))
			continue
		}
		f.job.end(err)
	}
}

// finish checks and decodes an answer, as the client of goburrow does.
func (f *flight) finish(l *link, frame []byte) {
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
		f.unit.took(l.wire.end.Sub(f.begin))
		f.job.ask.data = pdu.Data[1:]
	}
	f.job.ask.at = f.begin.Add(l.wire.end.Sub(f.begin) / 2)
	f.job.end(l.judge(f.unit, err))
}

// pdu is the request of a read (MODBUS Application Protocol V1.1b3, 6.1 to 6.4).
func (a *ask) pdu() *modbus.ProtocolDataUnit {
	function := map[table]byte{
		coils: modbus.FuncCodeReadCoils, discretes: modbus.FuncCodeReadDiscreteInputs,
		holdings: modbus.FuncCodeReadHoldingRegisters, inputs: modbus.FuncCodeReadInputRegisters,
	}[a.table]
	data := binary.BigEndian.AppendUint16(nil, uint16(a.start))
	return &modbus.ProtocolDataUnit{FunctionCode: function, Data: binary.BigEndian.AppendUint16(data, uint16(a.count))}
}
