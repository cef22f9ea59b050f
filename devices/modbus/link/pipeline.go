package link

import (
	"context"
	"errors"
	"time"

	"github.com/petiole-io/petiole/devices/modbus/wire"
)

// pendingRead is a read that was sent and has no reply yet.
type pendingRead struct {
	job      *Job
	unit     *Unit
	request  []byte
	begin    time.Time
	deadline time.Time
}

// pipelined reports whether a job may be in flight together with others.
func pipelined(j *Job) bool { return j.Read != nil && j.Settings.Window > 1 }

// pipeline sends a read, and further ones from the queue without waiting for the replies
// of earlier ones, as many as the settings' window allows, until none is left. Replies may
// come in any order: the transaction number identifies them (MODBUS Messaging on TCP/IP
// V1.0b, 4.2).
func (l *Link) pipeline(ctx context.Context, j *Job) {
	pending := map[uint16]*pendingRead{}
	l.sendRead(ctx, j, pending)
	for len(pending) > 0 {
		for {
			n := len(pending)
			j := l.queue.next(func(j *Job) bool { return pipelined(j) && n < j.Settings.Window })
			if j == nil {
				break
			}
			if !j.claim() {
				j.Finish(ErrStopped)
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
func (l *Link) sendRead(ctx context.Context, j *Job, pending map[uint16]*pendingRead) {
	p := l.peer(j.Unit)
	if !p.breaker.allows(time.Now()) || (p.breaker.open() && unitPending(pending, j.Unit)) {
		j.Finish(errSilent)
		return
	}
	if err := l.connect(ctx, j.Settings); err != nil {
		j.Finish(err)
		return
	}
	u := &Unit{link: l, ctx: ctx, id: j.Unit, settings: j.Settings, peer: p}
	request, err := p.wire.EncodeRead(j.Read.Table.Function(), uint16(j.Read.Start), uint16(j.Read.Count))
	if err != nil {
		j.Finish(err)
		return
	}
	f := &pendingRead{job: j, unit: u, request: request, begin: time.Now()}
	f.deadline = f.begin.Add(u.timeout())
	first := len(pending) == 0
	pending[wire.TransactionNumber(request)] = f
	l.wire.Trace = j.Settings.Trace
	if err := l.wire.Post(request, f.deadline, first); err != nil {
		l.wire.Close()
		l.failPending(ctx, pending, err)
	}
}

func unitPending(pending map[uint16]*pendingRead, unit byte) bool {
	for _, f := range pending {
		if f.job.Unit == unit {
			return true
		}
	}
	return false
}

// receiveReply waits for the next reply or timeout.
func (l *Link) receiveReply(ctx context.Context, pending map[uint16]*pendingRead) {
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
				f.job.Finish(l.recordOutcome(f.unit, wire.ErrTimeout))
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
func (l *Link) failPending(ctx context.Context, pending map[uint16]*pendingRead, err error) {
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
			f.job.Finish(l.execute(ctx, f.job))
			continue
		}
		f.job.Finish(err)
	}
}

// finish decodes a reply and ends the job.
func (f *pendingRead) finish(l *Link, frame []byte) {
	data, err := f.unit.peer.wire.DecodeRead(f.request, frame)
	if err == nil {
		f.unit.recordLatency(l.wire.Last.End.Sub(f.begin))
		f.job.Read.Data = data
	}
	f.job.Read.At = f.begin.Add(l.wire.Last.End.Sub(f.begin) / 2)
	f.job.Finish(l.recordOutcome(f.unit, err))
}
