package devices

import (
	"strconv"
	"strings"
	"time"

	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// DriftPolicy decides what follows when a device has another value than the desired one.
type DriftPolicy string

// The policies. The default, once, writes a desired value one time and reports if the
// device has another one later. Enforce writes it again. Observe never writes: it only
// reports whether the device has the value.
const (
	DriftOnce    DriftPolicy = "once"
	DriftEnforce DriftPolicy = "enforce"
	DriftObserve DriftPolicy = "observe"
)

func (p DriftPolicy) valid() bool {
	return p == DriftOnce || p == DriftEnforce || p == DriftObserve
}

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

// compare returns the state of a desired value after a good reading, and whether it has
// changed. A reading older than the conclusion of the value changes nothing. It is a pure
// function.
func (c desiredState) compare(typ v1beta1.PropertyType, reported string, at, now time.Time) (desiredState, bool) {
	if c.Policy == DriftObserve {
		return c.compareObserved(typ, reported)
	}
	if c.Actual == "" || at.UnixMilli() <= c.Time {
		return c, false
	}
	switch same := reported == c.Actual; {
	case c.Ack == Applied && !same:
		c.Ack, c.Reason, c.Message = Drifted, ReasonDrifted, "the device has "+reported
		if c.Policy == DriftEnforce {
			c = c.enforce(now)
		}
	case c.Ack == Drifted && same:
		c.Ack, c.Reason, c.Message, c.Due = Applied, "", "", 0
	default:
		return c, false
	}
	return c, true
}

// compareObserved is compare for a value that is never written.
func (c desiredState) compareObserved(typ v1beta1.PropertyType, reported string) (desiredState, bool) {
	switch same := sameValue(typ, c.Value, reported); {
	case c.Ack != Pending && c.Ack != Applied && c.Ack != Drifted:
		return c, false
	case same && c.Ack != Applied:
		c.Ack, c.Reason, c.Message, c.Actual = Applied, "", "", reported
	case !same && (c.Ack != Drifted || c.Actual != reported):
		c.Ack, c.Reason, c.Message, c.Actual = Drifted, ReasonDrifted, "the device has "+reported, reported
	default:
		return c, false
	}
	return c, true
}

// enforce schedules another write of a drifted value, or ends its enforcement.
func (c desiredState) enforce(now time.Time) desiredState {
	if c.Enforced > 0 && now.Sub(time.UnixMilli(c.Time)) >= enforceHold {
		c.Enforced = 0
	}
	switch {
	case c.expired(now):
		c.Reason = ReasonEnforceEnded
		c.Message += "; expiresAt has passed"
	case c.Enforced >= enforceTries:
		c.Reason = ReasonEnforceEnded
		c.Message += "; it was written again " + strconv.Itoa(c.Enforced) + " times"
	default:
		c.Due = now.Add(enforcePause(c.Enforced)).UnixMilli()
		c.Enforced++
	}
	return c
}

// afterReturn returns the state after the device was offline and has returned: a write that
// failed and an enforcement that ended are tried again.
func (c desiredState) afterReturn() desiredState {
	switch {
	case c.Ack == Failed:
		c.Ack, c.Reason, c.Message, c.Basis = Pending, "", "", ""
	case c.Ack == Drifted && c.Policy == DriftEnforce:
		c.Reason, c.Enforced, c.Due = ReasonDrifted, 0, 0
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
		x, okX := ParseBool(a)
		y, okY := ParseBool(b)
		return okX && okY && x == y
	case v1beta1.BYTES:
		return strings.EqualFold(strings.TrimSpace(a), strings.TrimSpace(b))
	case v1beta1.INT, v1beta1.FLOAT, v1beta1.DOUBLE:
		x, okX := parseNumber(a)
		y, okY := parseNumber(b)
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
