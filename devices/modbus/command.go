package modbus

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/petiole-io/petiole/devices"
)

// command sends a point a value, as one uninterrupted job: read, write once whatever was
// read, read back. The unit's answer to the write is what counts; what is read back must
// be the value, or zero where the unit acts on the value and resets it. Now is the value
// that was read last.
func (u *unit) command(p *point, value string) (out devices.Outcome, now devices.Value, err error) {
	if u.settings.broadcasts() {
		out, now, err = u.announce(p, value)
		if err == nil {
			out.After, out.Reason, out.Message = "", devices.ReasonUnverified, "nobody answers a broadcast"
		}
		return out, now, err
	}
	w, now, err := u.prepare(p, value)
	out.Before = w.shown
	if err != nil {
		return out, now, err
	}
	if err := u.wish.Err(); err != nil { // too late to begin
		return out, now, fmt.Errorf("%w before the write", err)
	}
	answer := u.put(p, w.want)
	if len(u.sent) == 0 {
		return out, now, refused(answer, "write")
	}
	now = devices.Value{}
	if answer != nil && (!p.verify || !lost(answer)) {
		return out, now, declined(answer)
	}
	if !p.verify {
		return out, now, nil
	}
	after, failed := u.readBack(p)
	if failed == nil {
		now, out.After = p.show(after)
	}
	out.Reason, out.Message, err = p.verdict(w, after, answer, failed)
	return out, now, err
}

// verdict says what became of a command's value that was sent. Answer is why the unit did
// not consent to it, and failed why it could not be read back. It is pure.
func (p *point) verdict(w wanted, after []byte, answer, failed error) (reason, message string, err error) {
	switch {
	case answer != nil && failed != nil:
		return "", "", fmt.Errorf("%w: write: %w; read back: %w", devices.ErrUnreachable, answer, failed)
	case failed != nil:
		return devices.ReasonUnverified, "the device took the value and could not be read back: " + failed.Error(), nil
	case answer != nil && (!p.same(w.want, after) || p.same(w.want, w.before)):
		// That the value is there says nothing when it was there before.
		return "", "", fmt.Errorf("%w: write: %w; whether the device acted on it is not known", devices.ErrUnreachable, answer)
	case p.same(w.want, after):
		return "", "", nil
	case p.zero(after) && !p.zero(w.want):
		return devices.ReasonReset, "the device took the value and reads zero", nil
	}
	_, has := p.show(after)
	return "", "", &devices.Rejection{Reason: devices.ReasonReadBack, Message: fmt.Sprintf("the device took the value and has %q", has)}
}

// lost reports whether a write may have been carried out though the unit did not say so
// in words that can be understood.
func lost(err error) bool {
	return exception(err) == 0 && (errors.Is(err, errTimeout) || !errors.Is(err, devices.ErrUnreachable))
}

// declined is the error of a command that the unit, or a gateway before it, did not carry
// out, or perhaps did: exceptions 5 and 11 and a link that broke leave that open.
func declined(err error) error {
	switch exception(err) {
	case excBusy, excGatewayPath:
		return fmt.Errorf("write: not carried out: %s", reason(err))
	case 0:
		if !errors.Is(err, devices.ErrUnreachable) {
			return fmt.Errorf("%w: write: %w", devices.ErrUnreachable, err)
		}
	}
	return refused(err, "write")
}

// zero reports whether all bits of the point's own are zero in its registers or bits.
func (p *point) zero(data []byte) bool {
	switch {
	case p.table.bits():
		data = p.unpadded(data)
	case p.codec.partial():
		return binary.BigEndian.Uint16(data)&p.codec.part() == 0
	}
	for _, b := range data {
		if b != 0 {
			return false
		}
	}
	return true
}

// longestTold bounds what is told of the requests of one write.
const longestTold = 512

// told is everything that went out to change the unit.
func (u *unit) told() string {
	s := strings.Join(u.sent, "; ")
	if len(s) > longestTold {
		s = s[:longestTold] + "…"
	}
	return s
}
