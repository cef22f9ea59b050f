package modbus

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// write makes a point have a value, as one uninterrupted job: read, compare, write, read
// back, compare. The comparison is of raw registers, so that rounding cannot fake a
// difference nor hide one. Now is the value that was read last.
func (u *unit) write(p *point, value string) (out devices.Outcome, now devices.Value, err error) {
	if u.settings.broadcasts() {
		return u.announce(p, value)
	}
	w, now, err := u.prepare(p, value)
	out.Before = w.shown
	if err != nil {
		return out, now, err
	}
	if p.verify && p.same(w.want, w.before) {
		out.After = out.Before
		return out, now, nil
	}
	if err := u.wish.Err(); err != nil { // too late to begin
		return out, now, fmt.Errorf("%w before the write", err)
	}
	now = devices.Value{}
	err = u.put(p, w.want)
	unanswered := errors.Is(err, errTimeout)
	if err != nil && (exception(err) != 0 || (errors.Is(err, devices.ErrUnreachable) && !unanswered) || !p.verify) {
		return out, now, refused(err, "write")
	}
	// Any other error is an answer that was lost, or an echo that differs: what the
	// unit has made of the value shows in the register.
	if !p.verify {
		_, out.After = p.show(w.want)
		return out, now, nil
	}
	after, failed := u.readBack(p)
	if failed != nil {
		return out, now, fmt.Errorf("%w: read back: %w", devices.ErrUnreachable, failed)
	}
	now, out.After = p.show(after)
	if unanswered && !p.same(w.want, after) {
		return out, now, refused(err, "write")
	}
	if !p.same(w.want, after) {
		return out, now, &devices.Rejection{Reason: devices.ReasonReadBack, Message: fmt.Sprintf("the device has %q", out.After)}
	}
	return out, now, nil
}

// wanted is what is to be written. Before are the registers as they are, if they were
// read, and shown their value in string form.
type wanted struct {
	want, before []byte
	shown        string
}

// prepare reads a point, if it can be read or is a part of a register, and makes the
// registers of a value.
func (u *unit) prepare(p *point, value string) (w wanted, now devices.Value, err error) {
	if p.verify || p.codec.partial() {
		if w.before, err = u.readSurely(p); err != nil {
			return w, now, refused(err, "read before write (readBack: false writes without)")
		}
		now, w.shown = p.show(w.before)
	}
	w.want, err = p.encode(value, w.before)
	return w, now, err
}

// readBack reads a point after it was written.
func (u *unit) readBack(p *point) ([]byte, error) {
	if p.readDelay > 0 {
		wait(u.ctx, p.readDelay)
	}
	return u.readSurely(p)
}

// readSurely reads a point, again as often as the settings want when nothing was
// answered.
func (u *unit) readSurely(p *point) ([]byte, error) {
	for retries := u.settings.retries; ; retries-- {
		data, err := u.readPoint(p)
		if retries <= 0 || !(errors.Is(err, errTimeout) || errors.Is(err, errGarbled)) || u.peer.breaker.open() {
			return data, err
		}
	}
}

// announce writes a value to all units of the line, which nobody answers.
func (u *unit) announce(p *point, value string) (out devices.Outcome, now devices.Value, err error) {
	if p.codec.partial() {
		return out, now, notValid("a part of a register cannot be broadcast")
	}
	want, err := p.encode(value, nil)
	if err != nil {
		return out, now, err
	}
	if err := u.wish.Err(); err != nil { // too late to begin
		return out, now, fmt.Errorf("%w before the broadcast", err)
	}
	if err := u.put(p, want); err != nil {
		return out, now, fmt.Errorf("broadcast: %w", err)
	}
	now, out.After = p.show(want)
	return out, now, nil
}

// put writes registers or coils. A part of a register is written with function 22,
// which nothing can come between, when the unit knows it; else the whole register is.
func (u *unit) put(p *point, want []byte) error {
	if p.table == coils {
		return u.writeBits(p.address, p.count, want)
	}
	if !p.codec.partial() || !u.masks() {
		return u.writeRegisters(p.address, want)
	}
	part := p.codec.part()
	err := u.maskRegister(p.address, ^part, binary.BigEndian.Uint16(want)&part)
	if u.settings.maskWrite == maskOn || err == nil {
		return err
	}
	u.peer.unmasked = true
	if exception(err) != excIllegalFunction {
		return err
	}
	return u.writeRegisters(p.address, want)
}

// masks tells that function 22 is to be used, or at least to be tried.
func (u *unit) masks() bool {
	s := u.settings
	return s.maskWrite == maskOn || (s.maskWrite == maskAuto && s.write == writeAuto && !u.peer.unmasked)
}

// refused turns the exceptions that no retry changes into rejections.
func refused(err error, what string) error {
	switch exception(err) {
	case excIllegalFunction, excIllegalAddress, excIllegalValue:
		if !errors.Is(err, devices.ErrUnreachable) {
			return &devices.Rejection{Reason: devices.ReasonRefused, Message: what + ": " + reason(err)}
		}
	}
	return fmt.Errorf("%s: %w", what, err)
}

// decode reads the point out of the data of a request that began at start.
func (p *point) decode(data []byte, start int) (devices.Value, error) {
	if p.table.bits() {
		return p.decodeBits(data, p.address-start)
	}
	at := 2 * (p.address - start)
	return p.codec.decode(data[at : at+2*p.count])
}

// same compares the point's own bits in two forms of its registers or packed bits,
// or, where one value has several forms, as a truth value of a whole register, the values.
func (p *point) same(want, is []byte) bool {
	switch {
	case p.table.bits():
		return bytes.Equal(want, p.unpadded(is))
	case p.codec.partial():
		part := p.codec.part()
		return binary.BigEndian.Uint16(want)&part == binary.BigEndian.Uint16(is)&part
	case p.codec.form == formDecimal || p.codec.typ == v1beta1.BOOLEAN:
		a, errA := p.codec.decode(want)
		b, errB := p.codec.decode(is)
		return errA == nil && errB == nil && a == b
	}
	return bytes.Equal(want, is)
}

// unpadded clears the padding of packed bits, which is the unit's to choose.
func (p *point) unpadded(data []byte) []byte {
	if p.count%8 == 0 {
		return data
	}
	out := append([]byte(nil), data...)
	out[len(out)-1] &= 1<<(p.count%8) - 1
	return out
}

// show is the value of the point's data, and its string form, if it has one.
func (p *point) show(data []byte) (devices.Value, string) {
	v, err := p.decode(data, p.address)
	if err != nil {
		return devices.Value{}, ""
	}
	return v, v.String()
}
