package devices

import (
	"strconv"
	"strings"
	"time"

	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// DriftPolicy says what follows when a device has another value than the desired one.
type DriftPolicy string

// The policies. The default, once, writes a desired value one time and reports when
// the device has another one later. Enforce writes it again. Observe never writes:
// it only tells whether the device has the value.
const (
	DriftOnce    DriftPolicy = "once"
	DriftEnforce DriftPolicy = "enforce"
	DriftObserve DriftPolicy = "observe"
)

func (p DriftPolicy) valid() bool {
	return p == DriftOnce || p == DriftEnforce || p == DriftObserve
}

const (
	// A value is enforced at most enforceTries times in a row, each time after a pause
	// that doubles from enforceFirst to enforceLongest. One that has held for
	// enforceHold ends the row; so does the return of a device that was offline.
	enforceTries   = 10
	enforceFirst   = time.Second
	enforceLongest = 5 * time.Minute
	enforceHold    = 10 * time.Minute
)

// enforcePause is how long the try after so many others waits.
func enforcePause(asserts int) time.Duration {
	if asserts >= 9 { // 1 s << 9 is beyond the longest
		return enforceLongest
	}
	return min(enforceFirst<<max(asserts, 0), enforceLongest)
}

// compare decides what a good reading says of a wish, and tells whether that is
// news. It is pure. A reading that is older than the wish's end says nothing.
func (c wish) compare(typ v1beta1.PropertyType, reported string, at, now time.Time) (wish, bool) {
	if c.Policy == DriftObserve {
		return c.observed(typ, reported)
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

// observed is compare for a value that is never written.
func (c wish) observed(typ v1beta1.PropertyType, reported string) (wish, bool) {
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

// enforce has a drifted value written again, or gives it up.
func (c wish) enforce(now time.Time) wish {
	if c.Asserts > 0 && now.Sub(time.UnixMilli(c.Time)) >= enforceHold {
		c.Asserts = 0
	}
	switch {
	case c.expired(now):
		c.Reason = ReasonEnforceEnded
		c.Message += "; its time is over"
	case c.Asserts >= enforceTries:
		c.Reason = ReasonEnforceEnded
		c.Message += "; it was written again " + strconv.Itoa(c.Asserts) + " times"
	default:
		c.Due = now.Add(enforcePause(c.Asserts)).UnixMilli()
		c.Asserts++
	}
	return c
}

// returned is the wish after its device came back from being offline: what failed
// and what was given up is tried again.
func (c wish) returned() wish {
	switch {
	case c.Ack == Failed:
		c.Ack, c.Reason, c.Message, c.Basis = Pending, "", "", ""
	case c.Ack == Drifted && c.Policy == DriftEnforce:
		c.Reason, c.Asserts, c.Due = ReasonDrifted, 0, 0
	}
	return c
}

// sameValue tells whether two string forms are one value of a type. Floats are
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
