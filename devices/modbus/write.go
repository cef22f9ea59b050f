package modbus

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/petiole-io/petiole/devices"
)

// write gives a point a value, as one uninterrupted job: read, compare, write, read
// back, compare. The comparison is of raw registers, so that rounding cannot fake a
// difference nor hide one. Now is the value that was read last.
func (u *unit) write(p point, value string) (out devices.Outcome, now devices.Value, err error) {
	var before []byte
	if p.verify || p.codec.partial() {
		if before, err = u.read(p.table, p.address, p.count); err != nil {
			return out, now, refused(err, "read before write")
		}
		now, out.Before = p.show(before)
	}
	want, err := p.encode(value, before)
	if err != nil {
		return out, now, err
	}
	if p.verify && bytes.Equal(want, p.mask(before)) {
		out.After = out.Before
		return out, now, nil
	}
	now, out.Written = devices.Value{}, true
	if p.table == coils {
		err = u.writeBits(p.address, p.count, want)
	} else {
		err = u.writeRegisters(p.address, want)
	}
	if err != nil && (exception(err) != 0 || errors.Is(err, devices.ErrUnreachable) || !p.verify) {
		return out, now, refused(err, "write")
	}
	// Any other error is an echo that differs: what the unit has made of the value
	// shows in the register.
	if !p.verify {
		_, out.After = p.show(want)
		return out, now, nil
	}
	if p.readDelay > 0 {
		wait(u.ctx, p.readDelay)
	}
	after, err := u.read(p.table, p.address, p.count)
	if err != nil {
		return out, now, fmt.Errorf("%w: read back: %w", devices.ErrUnreachable, err)
	}
	now, out.After = p.show(after)
	if !bytes.Equal(want, p.mask(after)) {
		return out, now, &devices.Rejection{Reason: devices.ReasonReadBack, Message: fmt.Sprintf("the device has %q", out.After)}
	}
	return out, now, nil
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

// encode makes the registers or packed bits of a value.
func (p point) encode(value string, before []byte) ([]byte, error) {
	if p.table.bits() {
		return p.encodeBits(value)
	}
	return p.codec.encode(value, before)
}

// decode reads the point out of the data of a request that began at start.
func (p point) decode(data []byte, start int) (devices.Value, error) {
	if p.table.bits() {
		return p.decodeBits(data, p.address-start)
	}
	at := 2 * (p.address - start)
	return p.codec.decode(data[at : at+2*p.count])
}

// mask clears the padding of packed bits, which is the unit's to choose.
func (p point) mask(data []byte) []byte {
	if !p.table.bits() || p.count%8 == 0 {
		return data
	}
	out := append([]byte(nil), data...)
	out[len(out)-1] &= 1<<(p.count%8) - 1
	return out
}

// show is the value of the point's data, and its string form, if it has one.
func (p point) show(data []byte) (devices.Value, string) {
	v, err := p.decode(data, p.address)
	if err != nil {
		return devices.Value{}, ""
	}
	return v, v.String()
}
