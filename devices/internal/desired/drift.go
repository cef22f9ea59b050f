package desired

import (
	"strconv"
	"strings"
	"time"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

const (
	// A value is enforced at most enforceTries times in a row, after a pause that doubles from
	// enforceFirst to enforceLongest. The count starts again after the value has held for
	// enforceHold, and when a device that was offline returns.
	enforceTries   = 10
	enforceFirst   = time.Second
	enforceLongest = 5 * time.Minute
	enforceHold    = 10 * time.Minute
)

// enforcePause returns the pause before a value is enforced once more.
func enforcePause(asserts int) time.Duration {
	if asserts >= 9 { // 1 s << 9 exceeds enforceLongest
		return enforceLongest
	}
	return min(enforceFirst<<max(asserts, 0), enforceLongest)
}

// Compare returns the state of a desired value after a good reading, and whether it has
// changed. A reading older than the conclusion of the value changes nothing. It is a pure
// function.
func (c State) Compare(typ v1beta1.PropertyType, reported string, at, now time.Time) (State, bool) {
	if c.Policy == devices.DriftObserve {
		return c.compareObserved(typ, reported)
	}
	if c.Actual == "" || at.UnixMilli() <= c.Time {
		return c, false
	}
	switch same := reported == c.Actual; {
	case c.Ack == devices.Applied && !same:
		c.Ack, c.Reason, c.Message = devices.Drifted, devices.ReasonDrifted, "the device has "+reported
		if c.Policy == devices.DriftEnforce {
			c = c.enforce(now)
		}
	case c.Ack == devices.Drifted && same:
		c.Ack, c.Reason, c.Message = devices.Applied, "", ""
		if c.Rewrite == 0 {
			c.Due = 0
		}
	default:
		return c, false
	}
	return c, true
}

// compareObserved is Compare for a value that is never written.
func (c State) compareObserved(typ v1beta1.PropertyType, reported string) (State, bool) {
	switch same := sameValue(typ, c.Value, reported); {
	case c.Ack != devices.Pending && c.Ack != devices.Applied && c.Ack != devices.Drifted:
		return c, false
	case same && c.Ack != devices.Applied:
		c.Ack, c.Reason, c.Message, c.Actual = devices.Applied, "", "", reported
	case !same && (c.Ack != devices.Drifted || c.Actual != reported):
		c.Ack, c.Reason, c.Message, c.Actual = devices.Drifted, devices.ReasonDrifted, "the device has "+reported, reported
	default:
		return c, false
	}
	return c, true
}

// enforce schedules another write of a drifted value, or ends its enforcement. Whether the value has
// expired is judged when it is due, by the right clock.
func (c State) enforce(now time.Time) State {
	if c.Enforced > 0 && now.Sub(time.UnixMilli(c.Time)) >= enforceHold {
		c.Enforced = 0
	}
	if c.Enforced >= enforceTries {
		c.Reason = devices.ReasonEnforceEnded
		c.Message += "; it was written again " + strconv.Itoa(c.Enforced) + " times"
		return c
	}
	c.Due = now.Add(enforcePause(c.Enforced)).UnixMilli()
	c.Enforced++
	return c
}

// AfterReturn returns the state after the device was offline and has returned: a write that
// failed and an enforcement that ended are tried again.
func (c State) AfterReturn() State {
	switch {
	case c.Ack == devices.Failed:
		c.Ack, c.Reason, c.Message, c.Basis = devices.Pending, "", "", ""
	case c.Ack == devices.Drifted && c.Policy == devices.DriftEnforce:
		c.Reason, c.Enforced, c.Due = devices.ReasonDrifted, 0, 0
	}
	return c
}

// sameValue reports whether two string forms are the same value of a type. Floats are
// compared with the precision of the type.
func sameValue(typ v1beta1.PropertyType, a, b string) bool {
	if a == b {
		return true
	}
	switch typ {
	case v1beta1.BOOLEAN:
		x, okX := devices.ParseBool(a)
		y, okY := devices.ParseBool(b)
		return okX && okY && x == y
	case v1beta1.BYTES:
		return strings.EqualFold(strings.TrimSpace(a), strings.TrimSpace(b))
	case v1beta1.INT, v1beta1.FLOAT, v1beta1.DOUBLE:
		x, okX := devices.ParseNumber(a)
		y, okY := devices.ParseNumber(b)
		if !okX || !okY {
			return false
		}
		if typ == v1beta1.FLOAT {
			f, _ := x.Float32()
			g, _ := y.Float32()
			return f == g
		}
		if typ == v1beta1.DOUBLE {
			f, _ := x.Float64()
			g, _ := y.Float64()
			return f == g
		}
		return x.Cmp(y) == 0
	default:
		return false
	}
}
