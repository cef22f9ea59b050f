package modbus

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/internal/backoff"
	"github.com/petiole-io/petiole/devices/modbus/codec"
	"github.com/petiole-io/petiole/devices/modbus/wire"
)

// write writes a desired value as one uninterrupted job: read, compare, write, read back,
// compare. It compares raw registers, so that rounding neither shows a difference nor hides
// one. Now is the value that was read last.
func (u *unit) write(p *point, value string) (out devices.Outcome, now devices.Value, err error) {
	if u.settings.broadcasts() {
		return u.broadcast(p, value)
	}
	w, now, err := u.prepare(p, value)
	out.Before = w.shown
	if err != nil {
		return out, now, err
	}
	if p.verify && p.Same(w.want, w.before) {
		out.After = out.Before
		return out, now, nil
	}
	if err := u.caller.Err(); err != nil { // the caller has given up
		return out, now, fmt.Errorf("%w before the write", err)
	}
	now = devices.Value{}
	err = u.send(p, w.want)
	unanswered := errors.Is(err, wire.ErrTimeout)
	if err != nil && (exception(err) != 0 || (errors.Is(err, devices.ErrUnreachable) && !unanswered) || !p.verify) {
		return out, now, asRejection(err, "write")
	}
	// After any other error, a lost reply or an echo that differs, the register shows
	// whether the unit has taken the value.
	if !p.verify {
		_, out.After = p.valueAndText(w.want)
		return out, now, nil
	}
	after, failed := u.readBack(p)
	if failed != nil {
		return out, now, fmt.Errorf("%w: read back: %w", devices.ErrUnreachable, failed)
	}
	now, out.After = p.valueAndText(after)
	if unanswered && !p.Same(w.want, after) {
		return out, now, asRejection(err, "write")
	}
	if !p.Same(w.want, after) {
		return out, now, &devices.Rejection{Reason: devices.ReasonReadBack, Message: fmt.Sprintf("the device has %q after the write", out.After)}
	}
	return out, now, nil
}

// writePlan has the registers to write. Before has their present contents, if they were
// read, and shown the value of those in string form.
type writePlan struct {
	want, before []byte
	shown        string
}

// prepare reads a point, if it can be read or is a part of a register, and encodes the
// value.
func (u *unit) prepare(p *point, value string) (w writePlan, now devices.Value, err error) {
	if p.verify || p.Partial() {
		if w.before, err = u.readWithRetries(p); err != nil {
			return w, now, asRejection(err, "read before write (readBack: false writes without)")
		}
		now, w.shown = p.valueAndText(w.before)
	}
	w.want, err = p.Encode(value, w.before)
	return w, now, err
}

// readBack reads a point after it was written.
func (u *unit) readBack(p *point) ([]byte, error) {
	if p.readDelay > 0 {
		backoff.Sleep(u.ctx, p.readDelay)
	}
	return u.readWithRetries(p)
}

// readWithRetries reads a point, with the retries of the settings if the unit does not
// reply.
func (u *unit) readWithRetries(p *point) ([]byte, error) {
	for retries := u.settings.retries; ; retries-- {
		data, err := u.readPoint(p)
		if retries <= 0 || !(errors.Is(err, wire.ErrTimeout) || errors.Is(err, wire.ErrGarbled)) || u.peer.breaker.open() {
			return data, err
		}
	}
}

// broadcast writes a value to all units of the line. None replies.
func (u *unit) broadcast(p *point, value string) (out devices.Outcome, now devices.Value, err error) {
	if p.Partial() {
		return out, now, &devices.Rejection{Reason: devices.ReasonNotValid, Message: "a part of a register cannot be broadcast"}
	}
	want, err := p.Encode(value, nil)
	if err != nil {
		return out, now, err
	}
	if err := u.caller.Err(); err != nil { // the caller has given up
		return out, now, fmt.Errorf("%w before the broadcast", err)
	}
	if err := u.send(p, want); err != nil {
		return out, now, fmt.Errorf("broadcast: %w", err)
	}
	now, out.After = p.valueAndText(want)
	return out, now, nil
}

// send writes registers or coils. It writes a part of a register with function 22, which
// is atomic, if the unit supports it, and otherwise the whole register.
func (u *unit) send(p *point, want []byte) error {
	if p.Table == codec.Coils {
		return u.writeBits(p.Address, p.Count, want)
	}
	if !p.Partial() || !u.usesMaskWrite() {
		return u.writeRegisters(p.Address, want)
	}
	part := p.Mask()
	err := u.maskRegister(p.Address, ^part, binary.BigEndian.Uint16(want)&part)
	if u.settings.maskWrite == maskOn || err == nil {
		return err
	}
	u.peer.noMaskWrite = true
	if exception(err) != excIllegalFunction {
		return err
	}
	return u.writeRegisters(p.Address, want)
}

// usesMaskWrite reports whether to use function 22, or to try it.
func (u *unit) usesMaskWrite() bool {
	s := u.settings
	return s.maskWrite == maskOn || (s.maskWrite == maskAuto && s.write == writeAuto && !u.peer.noMaskWrite)
}

// asRejection converts exceptions that no retry can change into rejections.
func asRejection(err error, what string) error {
	switch exception(err) {
	case excIllegalFunction, excIllegalAddress, excIllegalValue:
		if !errors.Is(err, devices.ErrUnreachable) {
			return &devices.Rejection{Reason: devices.ReasonRefused, Message: what + ": " + reason(err)}
		}
	}
	return fmt.Errorf("%s: %w", what, err)
}

// valueAndText decodes the point's data into a value and its string form. Both are empty
// if it holds no value.
func (p *point) valueAndText(data []byte) (devices.Value, string) {
	v, err := p.Decode(data, p.Address)
	if err != nil {
		return devices.Value{}, ""
	}
	return v, v.String()
}
