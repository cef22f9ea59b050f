package modbus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/goburrow/modbus"
	"go.uber.org/zap"
)

// broadcast is the unit that all slaves of a serial line listen to and none answers.
const broadcast = 0

// unit is one unit while a job is done on its link. It belongs to the link's
// goroutine.
type unit struct {
	link     *link
	ctx      context.Context //nolint:containedctx // a unit lives as long as one job
	wish     context.Context //nolint:containedctx // ends when nobody wants the job any more
	id       byte
	settings *settings
	peer     *peer
	// at is the middle of the last transaction.
	at time.Time
	// sent is what went out to change the unit, for people to read.
	sent []string
}

// call is one transaction. Resend tells that it may be sent twice without harm: it
// is, when the connection proves to have been closed before.
func (u *unit) call(resend bool, do func(modbus.Client) ([]byte, error)) ([]byte, error) {
	l := u.link
	if err := l.connect(u.ctx, u.settings); err != nil { // lost earlier in the same job
		return nil, err
	}
	if rest := u.settings.between - time.Since(l.wire.end); u.settings.between > 0 && rest > 0 {
		wait(u.ctx, rest)
	}
	out, err := u.once(do)
	if resend && errors.Is(err, errClosed) {
		if err := l.connect(u.ctx, u.settings); err != nil {
			return nil, err
		}
		out, err = u.once(do)
	}
	if errors.Is(err, errBroadcast) {
		return nil, nil
	}
	return out, l.judge(u, err)
}

func (u *unit) once(do func(modbus.Client) ([]byte, error)) ([]byte, error) {
	w := u.link.wire
	w.timeout, w.longest, w.turnaround, w.traced, w.echoes = u.timeout(), u.settings.timeout, u.settings.broadcastDelay, u.settings.trace, u.settings.localEcho
	w.grace = u.grace()
	out, err := do(u.peer.client)
	u.at = w.begin.Add(w.end.Sub(w.begin) / 2)
	if err == nil {
		u.took(w.latency)
	}
	return out, err
}

// timeout is how long the unit may take for its next answer. Probes of a silent unit
// wait only as long as it and the other units of the link have ever needed, so that
// they cost the others little. Once they are as rare as they become, every second one
// takes the whole timeout, for a unit that nothing is known of.
func (u *unit) timeout() time.Duration {
	own, all, b := &u.peer.latencies, &u.link.latencies, &u.peer.breaker
	short := b.open() && (b.step < u.longestStep() || b.misses%2 == 0)
	if short && all.known() {
		return min(max(latencyMargin*max(own.longest(), all.longest()), shortestProbe), u.settings.timeout)
	}
	return own.timeout(u.settings.minTimeout, u.settings.timeout)
}

// grace is how long the unit takes for an answer when it has not stopped answering.
func (u *unit) grace() time.Duration {
	if own := &u.peer.latencies; own.known() {
		return min(max(latencyMargin*own.longest(), shortestProbe), u.settings.timeout)
	}
	return u.settings.timeout
}

// longestStep is how rarely the unit is asked when it is silent.
func (u *unit) longestStep() time.Duration {
	if u.settings.maxBackoff > 0 {
		return u.settings.maxBackoff
	}
	return longestStep(u.link.jobs() == 1, u.settings.timeout)
}

// shortestProbe is the least that a silent unit is given to answer.
const shortestProbe = 50 * time.Millisecond

func (u *unit) took(d time.Duration) {
	u.peer.latencies.answered(d)
	u.link.latencies.answered(d)
}

func (u *unit) answered() {
	if u.peer.breaker.open() {
		u.link.silent[u.id].Store(false)
		u.link.log.Info("unit answers again", zap.Uint8("unit", u.id))
	}
	u.peer.breaker.answered()
	u.peer.proven = true
}

func (u *unit) missed() {
	l, b := u.link, &u.peer.breaker
	was := b.open()
	b.missed(time.Now(), u.longestStep(), rand.Float64()) // jitter
	u.peer.latencies.missed()
	u.peer.proven = false
	if !was && b.open() {
		l.silent[u.id].Store(true)
		l.log.Warn("unit silent", zap.Uint8("unit", u.id), zap.Stringers("frames", l.wire.frames.list()))
	}
}

// read reads registers, or packed bits.
func (u *unit) read(t table, start, count int) ([]byte, error) {
	return u.call(true, func(c modbus.Client) ([]byte, error) {
		switch t {
		case coils:
			return c.ReadCoils(uint16(start), uint16(count))
		case discretes:
			return c.ReadDiscreteInputs(uint16(start), uint16(count))
		case inputs:
			return c.ReadInputRegisters(uint16(start), uint16(count))
		default:
			return c.ReadHoldingRegisters(uint16(start), uint16(count))
		}
	})
}

// readPoint reads a point alone; register by register if the settings want that.
func (u *unit) readPoint(p *point) ([]byte, error) {
	if !u.settings.singleRegisters || p.table.bits() || p.count == 1 {
		return u.read(p.table, p.address, p.count)
	}
	var data []byte
	for i := range p.count {
		b, err := u.read(p.table, p.address+i, 1)
		if err != nil {
			return nil, err
		}
		data = append(data, b...)
	}
	return data, nil
}

// writeRegisters writes registers: with function 6 for a single one, else with one
// request of function 16, unless the settings want another.
func (u *unit) writeRegisters(start int, wire []byte) error {
	single := u.settings.write == writeSingle || u.settings.singleRegisters
	if len(wire) > 2 && single {
		for i := 0; i < len(wire); i += 2 {
			if err := u.writeRegister(start+i/2, wire[i:i+2]); err != nil {
				return err
			}
		}
		return nil
	}
	if len(wire) == 2 && u.settings.write != writeMultiple {
		return u.writeRegister(start, wire)
	}
	what := fmt.Sprintf("FC 16 %s %d-%d: %s", holdings, start, start+len(wire)/2-1, registerText(wire))
	return u.change(what, func(c modbus.Client) ([]byte, error) {
		return c.WriteMultipleRegisters(uint16(start), uint16(len(wire)/2), wire)
	})
}

func (u *unit) writeRegister(at int, wire []byte) error {
	return u.change(fmt.Sprintf("FC 6 %s %d: %x", holdings, at, wire), func(c modbus.Client) ([]byte, error) {
		return c.WriteSingleRegister(uint16(at), binary.BigEndian.Uint16(wire))
	})
}

// maskRegister changes some bits of a register (function 22): the register becomes
// (register AND and) OR or.
func (u *unit) maskRegister(at int, and, or uint16) error {
	what := fmt.Sprintf("FC 22 %s %d: and %04x or %04x", holdings, at, and, or)
	return u.change(what, func(c modbus.Client) ([]byte, error) { return c.MaskWriteRegister(uint16(at), and, or) })
}

// writeBits writes coils with one request: function 5 for a single one, else 15. A
// unit that knows only function 5 gets one request for each coil.
func (u *unit) writeBits(start, count int, packed []byte) error {
	if u.settings.write == writeMultiple || (count > 1 && u.settings.write != writeSingle) {
		what := fmt.Sprintf("FC 15 %s %d-%d: %s", coils, start, start+count-1, digits(packed, 0, count))
		return u.change(what, func(c modbus.Client) ([]byte, error) {
			return c.WriteMultipleCoils(uint16(start), uint16(count), packed)
		})
	}
	for i := range count {
		on := uint16(0)
		if packed[i/8]>>(i%8)&1 == 1 {
			on = 0xff00
		}
		what := fmt.Sprintf("FC 5 %s %d: %s", coils, start+i, digits(packed, i, i+1))
		if err := u.change(what, func(c modbus.Client) ([]byte, error) { return c.WriteSingleCoil(uint16(start+i), on) }); err != nil {
			return err
		}
	}
	return nil
}

// change is a transaction that changes the unit. It is never sent twice. What went out is
// noted, with what became of it where that is not success.
func (u *unit) change(what string, do func(modbus.Client) ([]byte, error)) error {
	u.link.wire.posted = false
	_, err := u.call(false, do)
	if !u.link.wire.posted {
		return err
	}
	if err != nil {
		what += " (" + reason(err) + ")"
	}
	u.sent = append(u.sent, what)
	return err
}

// registerText is the registers of a request in hexadecimal.
func registerText(wire []byte) string {
	var b strings.Builder
	for i := 0; i < len(wire); i += 2 {
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%x", wire[i:i+2])
	}
	return b.String()
}

// digits are packed bits from one to before another, the first one first.
func digits(packed []byte, from, to int) string {
	var b strings.Builder
	for i := from; i < to; i++ {
		b.WriteByte('0' + packed[i/8]>>(i%8)&1)
	}
	return b.String()
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
