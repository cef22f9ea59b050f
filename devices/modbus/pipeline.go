package modbus

import (
	"context"
	"errors"
	"time"

	"github.com/petiole-io/petiole/devices/modbus/wire"
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
	request, err := p.wire.EncodeRead(j.read.table.Function(), uint16(j.read.start), uint16(j.read.count))
	if err != nil {
		j.finish(err)
		return
	}
	f := &pendingRead{job: j, unit: u, request: request, begin: time.Now()}
	f.deadline = f.begin.Add(u.timeout())
	first := len(pending) == 0
	pending[wire.TransactionNumber(request)] = f
	l.wire.Trace = j.settings.trace
	if err := l.wire.Post(request, f.deadline, first); err != nil {
		l.wire.Close()
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
	frame, err := l.wire.Receive(until)
	switch {
	case err == nil:
		id := wire.TransactionNumber(frame)
		if f := pending[id]; f != nil { // otherwise its request has timed out
			delete(pending, id)
			f.finish(l, frame)
		}
		if !l.wire.IsOpen() { // the reply was invalid, and finish has closed the connection
			l.failPending(ctx, pending, wire.ErrClosed)
		}
	case errors.Is(err, wire.ErrTimeout):
		for id, f := range pending {
			if !f.deadline.After(l.wire.Last.End) {
				delete(pending, id)
				f.job.finish(l.recordOutcome(f.unit, wire.ErrTimeout))
			}
		}
		if !l.wire.IsOpen() {
			l.failPending(ctx, pending, wire.ErrClosed)
		}
	default:
		l.wire.Close()
		l.failPending(ctx, pending, err)
	}
}

// failPending ends all pending reads of a connection that was lost. With wire.ErrClosed it
// executes them again instead, one at a time.
func (l *link) failPending(ctx context.Context, pending map[uint16]*pendingRead, err error) {
	switch {
	case errors.Is(err, wire.ErrClosed):
	case errors.Is(err, wire.ErrGarbled):
		l.garbled(err)
	default:
		l.down(err)
	}
	for id, f := range pending {
		delete(pending, id)
		if errors.Is(err, wire.ErrClosed) {
			f.job.finish(l.execute(ctx, f.job))
			continue
		}
		f.job.finish(err)
	}
}

// finish decodes a reply and ends the job.
func (f *pendingRead) finish(l *link, frame []byte) {
	data, err := f.unit.peer.wire.DecodeRead(f.request, frame)
	if err == nil {
		f.unit.recordLatency(l.wire.Last.End.Sub(f.begin))
		f.job.read.data = data
	}
	f.job.read.at = f.begin.Add(l.wire.Last.End.Sub(f.begin) / 2)
	f.job.finish(l.recordOutcome(f.unit, err))
}
