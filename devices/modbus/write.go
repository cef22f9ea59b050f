package modbus

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/modbus/codec"
	"github.com/petiole-io/petiole/devices/modbus/link"
	"github.com/petiole-io/petiole/devices/modbus/wire"
)

// writer writes values to one point of a unit, within one job of its link.
type writer struct {
	*link.Unit
	settings *settings
	point    *point
}

// write writes a desired value as one uninterrupted job: read, compare, write, read back,
// compare. It compares raw registers, so that rounding neither shows a difference nor hides
// one. Now is the value that was read last.
func (w *writer) write(value string) (out devices.Outcome, now devices.Value, err error) {
	if w.settings.broadcasts() {
		return w.broadcast(value)
	}
	c, now, err := w.prepare(value)
	out.Before = c.shown
	if err != nil {
		return out, now, err
	}
	if w.point.verify && w.point.Same(c.want, c.before) {
		out.After = out.Before
		return out, now, nil
	}
	if err := w.Err(); err != nil { // the caller has given up
		return out, now, fmt.Errorf("%w before the write", err)
	}
	now = devices.Value{}
	err = w.send(c.want)
	unanswered := errors.Is(err, wire.ErrTimeout)
	if err != nil && (link.Exception(err) != 0 || (errors.Is(err, devices.ErrUnreachable) && !unanswered) || !w.point.verify) {
		return out, now, asRejection(err, "write")
	}
	// After any other error, a lost reply or an echo that differs, the register shows
	// whether the unit has taken the value.
	if !w.point.verify {
		_, out.After = w.point.valueAndText(c.want)
		return out, now, nil
	}
	after, failed := w.readBack()
	if failed != nil {
		return out, now, fmt.Errorf("%w: read back: %w", devices.ErrUnreachable, failed)
	}
	now, out.After = w.point.valueAndText(after)
	if unanswered && !w.point.Same(c.want, after) {
		return out, now, asRejection(err, "write")
	}
	if !w.point.Same(c.want, after) {
		return out, now, &devices.Rejection{Reason: devices.ReasonReadBack, Message: fmt.Sprintf("the device has %q after the write", out.After)}
	}
	return out, now, nil
}

// contents has the registers to write. Before has their present contents, if they were
// read, and shown the value of those in string form.
type contents struct {
	want, before []byte
	shown        string
}

// prepare reads a point, if it can be read or is a part of a register, and encodes the
// value.
func (w *writer) prepare(value string) (c contents, now devices.Value, err error) {
	if w.point.verify || w.point.DependsOnOthers() {
		if c.before, err = w.readWithRetries(); err != nil {
			return c, now, asRejection(err, "read before write (readBack: false writes without)")
		}
		now, c.shown = w.point.valueAndText(c.before)
	}
	c.want, err = w.point.Encode(value, c.before)
	return c, now, err
}

// readBack reads a point after it was written.
func (w *writer) readBack() ([]byte, error) {
	if w.point.readDelay > 0 {
		w.Sleep(w.point.readDelay)
	}
	return w.readWithRetries()
}

// readWithRetries reads a point, with the retries of the settings if the unit does not
// reply.
func (w *writer) readWithRetries() ([]byte, error) {
	for retries := w.settings.retries; ; retries-- {
		data, err := w.ReadPoint(&w.point.Point)
		if retries <= 0 || !(errors.Is(err, wire.ErrTimeout) || errors.Is(err, wire.ErrGarbled)) || w.IsSilent() {
			return data, err
		}
	}
}

// broadcast writes a value to all units of the line. None replies.
func (w *writer) broadcast(value string) (out devices.Outcome, now devices.Value, err error) {
	if w.point.DependsOnOthers() {
		return out, now, &devices.Rejection{Reason: devices.ReasonNotValid, Message: "a part of a register, or a value with a scale register, cannot be broadcast"}
	}
	want, err := w.point.Encode(value, nil)
	if err != nil {
		return out, now, err
	}
	if err := w.Err(); err != nil { // the caller has given up
		return out, now, fmt.Errorf("%w before the broadcast", err)
	}
	if err := w.send(want); err != nil {
		return out, now, fmt.Errorf("broadcast: %w", err)
	}
	now, out.After = w.point.valueAndText(want)
	return out, now, nil
}

// send writes registers or coils. It writes a part of a register with function 22, which
// is atomic, if the unit supports it, and otherwise the whole register.
func (w *writer) send(want []byte) error {
	if w.point.Table == codec.Coils {
		return w.WriteBits(w.point.Address, w.point.Count, want)
	}
	address, data := w.point.Payload(want)
	part, single := w.point.Mask()
	if !w.point.Partial() || !single || !w.usesMaskWrite() {
		return w.WriteRegisters(address, data)
	}
	err := w.MaskRegister(address, ^part, binary.BigEndian.Uint16(data)&part)
	if w.settings.maskWrite == maskOn || err == nil {
		return err
	}
	if link.Exception(err) != link.IllegalFunction {
		return err
	}
	return w.WriteRegisters(address, data)
}

// usesMaskWrite reports whether to use function 22, or to try it.
func (w *writer) usesMaskWrite() bool {
	s := w.settings
	return s.maskWrite == maskOn || (s.maskWrite == maskAuto && s.Write == link.WriteAuto && w.KnowsMaskWrite())
}

// asRejection converts exceptions that no retry can change into rejections.
func asRejection(err error, what string) error {
	switch link.Exception(err) {
	case link.IllegalFunction, link.IllegalAddress, link.IllegalValue:
		if !errors.Is(err, devices.ErrUnreachable) {
			return &devices.Rejection{Reason: devices.ReasonRefused, Message: what + ": " + link.Reason(err)}
		}
	}
	return fmt.Errorf("%s: %w", what, err)
}
