package link

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

	"github.com/petiole-io/petiole/devices/internal/backoff"
	"github.com/petiole-io/petiole/devices/modbus/codec"
	"github.com/petiole-io/petiole/devices/modbus/wire"
)

// Unit gives a job access to one unit of a link. It belongs to the link's goroutine.
type Unit struct {
	link     *Link
	ctx      context.Context //nolint:containedctx // a unit lives as long as one job
	caller   context.Context //nolint:containedctx // ends when the caller no longer wants the job
	id       byte
	settings *Settings
	peer     *peer
	// At is the midpoint of the last transaction.
	At time.Time
	// Sent lists the write requests that went out, as text for people.
	Sent []string
}

// Err returns why the caller no longer wants the job, nil if it does.
func (u *Unit) Err() error { return u.caller.Err() }

// Sleep pauses, with the link, for a time or until the link is stopped.
func (u *Unit) Sleep(d time.Duration) { backoff.Sleep(u.ctx, d) }

// IsSilent reports whether the unit does not respond at present.
func (u *Unit) IsSilent() bool { return u.peer.breaker.open() }

// KnowsMaskWrite reports whether the unit may support function 22: MaskRegister has not failed.
func (u *Unit) KnowsMaskWrite() bool { return !u.peer.noMaskWrite }

// call runs one transaction. With resend, which is for reads only, it tries once more
// when the connection turns out to have been closed by the other side before.
func (u *Unit) call(resend bool, do func(modbus.Client) ([]byte, error)) ([]byte, error) {
	l := u.link
	if err := l.connect(u.ctx, u.settings); err != nil { // an earlier transaction of the job lost it
		return nil, err
	}
	if rest := u.settings.Between - time.Since(l.wire.Last.End); u.settings.Between > 0 && rest > 0 {
		backoff.Sleep(u.ctx, rest)
	}
	out, err := u.attempt(do)
	if resend && errors.Is(err, wire.ErrClosed) {
		if err := l.connect(u.ctx, u.settings); err != nil {
			return nil, err
		}
		out, err = u.attempt(do)
	}
	if errors.Is(err, wire.ErrBroadcast) {
		return nil, nil
	}
	return out, l.recordOutcome(u, err)
}

func (u *Unit) attempt(do func(modbus.Client) ([]byte, error)) ([]byte, error) {
	w := u.link.wire
	w.Options = wire.Options{
		Timeout: u.timeout(), MaxTimeout: u.settings.Timeout, Turnaround: u.settings.BroadcastDelay,
		Echoes: u.settings.LocalEcho, Trace: u.settings.Trace,
	}
	out, err := do(u.peer.wire)
	u.At = w.Last.Begin.Add(w.Last.End.Sub(w.Last.Begin) / 2)
	if err == nil {
		u.recordLatency(w.Last.Latency)
	}
	return out, err
}

// timeout returns how long to wait for the next reply of the unit. A probe of a silent
// unit waits only a multiple of the latencies seen on the link, so that it delays the
// other units little. At the longest back-off every second probe waits the whole timeout,
// in case the unit has become slower than anything seen so far.
func (u *Unit) timeout() time.Duration {
	own, all, b := &u.peer.latencies, &u.link.latencies, &u.peer.breaker
	short := b.open() && (b.backoff < u.maxBackoff() || b.failures%2 == 0)
	if short && all.known() {
		return min(max(latencyMargin*max(own.longest(), all.longest()), shortestProbe), u.settings.Timeout)
	}
	return own.timeout(u.settings.MinTimeout, u.settings.Timeout)
}

// maxBackoff returns the longest time between two probes of the unit.
func (u *Unit) maxBackoff() time.Duration {
	if u.settings.MaxBackoff > 0 {
		return u.settings.MaxBackoff
	}
	return defaultMaxBackoff(u.link.users() == 1, u.settings.Timeout)
}

// shortestProbe is the shortest timeout of a probe.
const shortestProbe = 50 * time.Millisecond

func (u *Unit) recordLatency(d time.Duration) {
	u.peer.latencies.add(d)
	u.link.latencies.add(d)
}

func (u *Unit) recordAnswer() {
	if u.peer.breaker.open() {
		u.link.silent[u.id].Store(false)
		u.link.log.Info("unit responds again", zap.Uint8("unit", u.id))
	}
	u.peer.breaker.recordSuccess()
	u.peer.answering = true
}

func (u *Unit) recordTimeout() {
	l, b := u.link, &u.peer.breaker
	was := b.open()
	b.recordFailure(time.Now(), u.maxBackoff(), rand.Float64())
	u.peer.latencies.recordTimeout()
	u.peer.answering = false
	if !was && b.open() {
		l.silent[u.id].Store(true)
		l.log.Warn("unit does not respond", zap.Uint8("unit", u.id), zap.Stringers("frames", l.wire.Frames()))
	}
}

// Read reads count registers, or count bits, packed.
func (u *Unit) Read(t codec.Table, start, count int) ([]byte, error) {
	return u.call(true, func(c modbus.Client) ([]byte, error) {
		switch t {
		case codec.Coils:
			return c.ReadCoils(uint16(start), uint16(count))
		case codec.Discretes:
			return c.ReadDiscreteInputs(uint16(start), uint16(count))
		case codec.Inputs:
			return c.ReadInputRegisters(uint16(start), uint16(count))
		default:
			return c.ReadHoldingRegisters(uint16(start), uint16(count))
		}
	})
}

// ReadPoint reads a single point, register by register if the settings say so.
func (u *Unit) ReadPoint(p *codec.Point) ([]byte, error) {
	if !u.settings.SingleRegisters || p.Table.Bits() || p.Count == 1 {
		return u.Read(p.Table, p.Address, p.Count)
	}
	var data []byte
	for i := range p.Count {
		b, err := u.Read(p.Table, p.Address+i, 1)
		if err != nil {
			return nil, err
		}
		data = append(data, b...)
	}
	return data, nil
}

// WriteRegisters writes a single register with function 6, and several with one
// request of function 16, unless the settings choose another function.
func (u *Unit) WriteRegisters(start int, data []byte) error {
	single := u.settings.Write == WriteSingle || u.settings.SingleRegisters
	if len(data) > 2 && single {
		for i := 0; i < len(data); i += 2 {
			if err := u.writeRegister(start+i/2, data[i:i+2]); err != nil {
				return err
			}
		}
		return nil
	}
	if len(data) == 2 && u.settings.Write != WriteMultiple {
		return u.writeRegister(start, data)
	}
	what := fmt.Sprintf("FC 16 %s %d-%d: %s", codec.Holdings, start, start+len(data)/2-1, registerText(data))
	return u.change(what, func(c modbus.Client) ([]byte, error) {
		return c.WriteMultipleRegisters(uint16(start), uint16(len(data)/2), data)
	})
}

func (u *Unit) writeRegister(at int, data []byte) error {
	return u.change(fmt.Sprintf("FC 6 %s %d: %x", codec.Holdings, at, data), func(c modbus.Client) ([]byte, error) {
		return c.WriteSingleRegister(uint16(at), binary.BigEndian.Uint16(data))
	})
}

// MaskRegister changes bits of one register with function 22: the register becomes
// (register AND and) OR or.
func (u *Unit) MaskRegister(at int, and, or uint16) error {
	what := fmt.Sprintf("FC 22 %s %d: and %04x or %04x", codec.Holdings, at, and, or)
	err := u.change(what, func(c modbus.Client) ([]byte, error) { return c.MaskWriteRegister(uint16(at), and, or) })
	u.peer.noMaskWrite = u.peer.noMaskWrite || err != nil
	return err
}

// WriteBits writes coils with one request: function 5 for a single one, else 15. A
// unit that knows only function 5 gets one request for each coil.
func (u *Unit) WriteBits(start, count int, packed []byte) error {
	if u.settings.Write == WriteMultiple || (count > 1 && u.settings.Write != WriteSingle) {
		what := fmt.Sprintf("FC 15 %s %d-%d: %s", codec.Coils, start, start+count-1, digits(packed, 0, count))
		return u.change(what, func(c modbus.Client) ([]byte, error) {
			return c.WriteMultipleCoils(uint16(start), uint16(count), packed)
		})
	}
	for i := range count {
		on := uint16(0)
		if packed[i/8]>>(i%8)&1 == 1 {
			on = 0xff00
		}
		what := fmt.Sprintf("FC 5 %s %d: %s", codec.Coils, start+i, digits(packed, i, i+1))
		if err := u.change(what, func(c modbus.Client) ([]byte, error) { return c.WriteSingleCoil(uint16(start+i), on) }); err != nil {
			return err
		}
	}
	return nil
}

// change runs a transaction that writes. It is never sent twice. If the request went out,
// change adds what, with the reason of a failure, to Sent.
func (u *Unit) change(what string, do func(modbus.Client) ([]byte, error)) error {
	before := u.link.wire.Written()
	_, err := u.call(false, do)
	if u.link.wire.Written() == before {
		return err
	}
	if err != nil {
		what += " (" + Reason(err) + ")"
	}
	u.Sent = append(u.Sent, what)
	return err
}

// maxSentText bounds the text about the requests of one write.
const maxSentText = 512

// SentText lists the write requests that went out.
func (u *Unit) SentText() string {
	s := strings.Join(u.Sent, "; ")
	if len(s) > maxSentText {
		s = s[:maxSentText] + "…"
	}
	return s
}

// registerText formats registers in hexadecimal.
func registerText(data []byte) string {
	var b strings.Builder
	for i := 0; i < len(data); i += 2 {
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%x", data[i:i+2])
	}
	return b.String()
}

// digits formats the packed bits [from, to) as 0 and 1, the first one first.
func digits(packed []byte, from, to int) string {
	var b strings.Builder
	for i := from; i < to; i++ {
		b.WriteByte('0' + packed[i/8]>>(i%8)&1)
	}
	return b.String()
}
