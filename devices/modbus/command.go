package modbus

import (
	"errors"
	"fmt"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/modbus/link"
	"github.com/petiole-io/petiole/devices/modbus/wire"
)

// command sends a value to a point as one uninterrupted job: read, write once whatever was
// read, read back. The unit's reply to the write decides; what is read back must be the
// value, or zero if the unit acts on the value and resets it. Now is the value that was
// read last.
func (w *writer) command(value string) (out devices.Outcome, now devices.Value, err error) {
	if w.settings.broadcasts() {
		out, now, err = w.broadcast(value)
		if err == nil {
			out.After, out.Reason, out.Message = "", devices.ReasonUnverified, "no unit replies to a broadcast"
		}
		return out, now, err
	}
	c, now, err := w.prepare(value)
	out.Before = c.shown
	if err != nil {
		return out, now, err
	}
	if err := w.Err(); err != nil { // the caller has given up
		return out, now, fmt.Errorf("%w before the write", err)
	}
	reply := w.send(c.want)
	if len(w.Sent) == 0 {
		return out, now, asRejection(reply, "write")
	}
	now = devices.Value{}
	if reply != nil && (!w.point.verify || !outcomeUnknown(reply)) {
		return out, now, commandError(reply)
	}
	if !w.point.verify {
		return out, now, nil
	}
	after, failed := w.readBack()
	if failed == nil {
		now, out.After = w.point.valueAndText(after)
	}
	out.Reason, out.Message, err = w.point.verdict(c, after, reply, failed)
	return out, now, err
}

// verdict decides what became of a command that was sent. Reply is the error of the write,
// and failed the error of reading back. It is a pure function.
func (p *point) verdict(c contents, after []byte, reply, failed error) (reason, message string, err error) {
	switch {
	case reply != nil && failed != nil:
		return "", "", fmt.Errorf("%w: write: %w; read back: %w", devices.ErrUnreachable, reply, failed)
	case failed != nil:
		return devices.ReasonUnverified, "the device accepted the value and could not be read back: " + failed.Error(), nil
	case reply != nil && (!p.Same(c.want, after) || p.Same(c.want, c.before)):
		// The value in the register proves nothing if it was there before.
		return "", "", fmt.Errorf("%w: write: %w; it is not known whether the device acted on it", devices.ErrUnreachable, reply)
	case p.Same(c.want, after):
		return "", "", nil
	case p.Zero(after) && !p.Zero(c.want):
		return devices.ReasonReset, "the device accepted the value and reads zero", nil
	}
	_, has := p.valueAndText(after)
	return "", "", &devices.Rejection{Reason: devices.ReasonReadBack, Message: fmt.Sprintf("the device accepted the value and has %q", has)}
}

// outcomeUnknown reports whether a write may have been carried out although no valid reply
// says so.
func outcomeUnknown(err error) bool {
	return link.Exception(err) == 0 && (errors.Is(err, wire.ErrTimeout) || !errors.Is(err, devices.ErrUnreachable))
}

// commandError returns the error of a command whose write failed. After exceptions 5 and 11
// and after a broken link the unit may have carried it out.
func commandError(err error) error {
	switch link.Exception(err) {
	case link.Busy, link.GatewayPath:
		return fmt.Errorf("write: not carried out: %s", link.Reason(err))
	case 0:
		if !errors.Is(err, devices.ErrUnreachable) {
			return fmt.Errorf("%w: write: %w", devices.ErrUnreachable, err)
		}
	}
	return asRejection(err, "write")
}
