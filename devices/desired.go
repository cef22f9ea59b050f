package devices

import (
	"encoding/hex"
	"strconv"
	"strings"
	"time"

	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// Ack is what became of a desired value or of a command.
type Ack string

// The acks. Pending is the only one that is not final; drifted means that the device
// has another value than the one that is desired; expired means that its time was
// over before it was written, so that it never will be.
const (
	Pending    Ack = "pending"
	Applied    Ack = "applied"
	Rejected   Ack = "rejected"
	Failed     Ack = "failed"
	Superseded Ack = "superseded"
	Expired    Ack = "expired"
	Drifted    Ack = "drifted"
)

// acks are all of them, the labels of Stats.
var acks = []Ack{Pending, Applied, Rejected, Failed, Superseded, Expired, Drifted}

// Metadata of desired values that this package reads, in any case.
const (
	// MetaExpiresAt is when the value need not be written any more: RFC 3339, or
	// milliseconds since 1970. Absent: never.
	MetaExpiresAt = "expiresAt"
	// MetaDriftPolicy is a DriftPolicy; it wins over the setting of the same name.
	MetaDriftPolicy = "driftPolicy"
)

// wish is a desired value with what became of it. It is what survives a restart.
type wish struct {
	Mark    string      `json:"mark"`
	Version string      `json:"version"`
	Value   string      `json:"value"`
	Policy  DriftPolicy `json:"policy,omitempty"`
	Ack     Ack         `json:"ack"`
	Reason  string      `json:"reason,omitempty"`
	Message string      `json:"message,omitempty"`
	// Actual is the property's value in string form right after the write.
	Actual string `json:"actual,omitempty"`
	// Basis is the mark of the definition under which the value was settled.
	Basis string `json:"basis,omitempty"`
	// Time is when it was settled or last tried, ms since 1970.
	Time int64 `json:"time,omitempty"`
	// Expires is when it need not be written any more, ms since 1970; 0: never.
	Expires int64 `json:"expires,omitempty"`
	// Asserts counts how often in a row it was enforced, and Due is when it may be
	// again, ms since 1970.
	Asserts int   `json:"asserts,omitempty"`
	Due     int64 `json:"due,omitempty"`
}

// next decides what follows from the desired values of a device, given what is
// recorded of earlier ones: the wishes as they shall be, and the earlier ones that
// never were carried out because newer ones took their place. A value that was
// settled is not touched again; one that was pending stays pending, so that after a
// restart it is compared with the device and written only if it is not there. One
// that was refused is tried again when the definition (basis) has changed.
// It is pure.
func next(desired []Desired, version, basis string, recorded map[string]wish) (now map[string]wish, superseded map[string]wish) {
	now, superseded = make(map[string]wish, len(desired)), map[string]wish{}
	for _, d := range desired {
		c, ok := recorded[d.Property]
		if ok && c.Mark == d.Mark {
			refused := (c.Ack == Rejected || c.Ack == Failed) && c.Basis != basis && d.Invalid == ""
			if refused || c.Policy == DriftObserve && d.Policy != DriftObserve {
				c.Ack, c.Reason, c.Message, c.Basis = Pending, "", "", ""
			}
			c.Policy = d.Policy
			now[d.Property] = c
			continue
		}
		if ok && c.Ack == Pending {
			superseded[d.Property] = c
		}
		fresh := wish{Mark: d.Mark, Version: version, Value: d.Value, Policy: d.Policy, Ack: Pending}
		if !d.Expires.IsZero() {
			fresh.Expires = d.Expires.UnixMilli()
		}
		if d.Invalid != "" {
			fresh.Ack, fresh.Reason, fresh.Message = Rejected, ReasonNotValid, d.Invalid
		}
		now[d.Property] = fresh
	}
	for p, c := range recorded {
		if _, ok := now[p]; !ok && c.Ack == Pending {
			superseded[p] = c
		}
	}
	return now, superseded
}

// is tells whether both are the same desired value of a property, whatever became of it.
func (c wish) is(other wish) bool { return c.Mark == other.Mark && c.Version == other.Version }

// due tells whether the wish waits to be written, and from when on.
func (c wish) due() (since time.Time, waits bool) {
	switch {
	case c.Ack == Pending && c.Policy != DriftObserve:
	case c.Ack == Drifted && c.Policy == DriftEnforce && c.Reason != ReasonEnforceEnded:
	default:
		return time.Time{}, false
	}
	return time.UnixMilli(c.Due), true
}

// expired tells that the time to write the value is over. An applied value stays
// applied, but is enforced no longer.
func (c wish) expired(now time.Time) bool {
	return c.Expires != 0 && now.UnixMilli() >= c.Expires
}

// metadata reads what the metadata of a desired value tells about it.
func (d *Desired) metadata(m map[string]string) {
	for k, v := range m {
		v = strings.TrimSpace(v)
		switch {
		case v == "":
		case strings.EqualFold(k, MetaExpiresAt):
			t, ok := parseTime(v)
			if !ok {
				d.Invalid = "expiresAt " + strconv.Quote(v) + " is neither RFC 3339 nor milliseconds since 1970"
			}
			d.Expires = t
		case strings.EqualFold(k, MetaDriftPolicy):
			if d.Policy = DriftPolicy(strings.ToLower(v)); !d.Policy.valid() {
				d.Invalid = "driftPolicy " + strconv.Quote(v) + " is none of enforce, once, observe"
				d.Policy = DriftOnce
			}
		}
	}
}

func parseTime(s string) (time.Time, bool) {
	if ms, err := strconv.ParseInt(s, 10, 64); err == nil && ms > 0 {
		return time.UnixMilli(ms), true
	}
	t, err := time.Parse(time.RFC3339, s)
	return t, err == nil
}

// check rejects a value that the point cannot take, before the driver is asked. Nil
// means that it may be tried.
func check(p Point, value string) *Rejection {
	if !p.Writable {
		return reject(ReasonReadOnly, "%s is read-only", p.Name)
	}
	switch p.Type {
	case v1beta1.BOOLEAN:
		if _, ok := ParseBool(value); !ok {
			return reject(ReasonNotValid, "%q is not true or false", value)
		}
	case v1beta1.BYTES:
		if _, err := hex.DecodeString(strings.TrimSpace(value)); err != nil {
			return reject(ReasonNotValid, "%q is not hexadecimal", value)
		}
	case v1beta1.INT, v1beta1.FLOAT, v1beta1.DOUBLE:
		n, ok := parseNumber(value)
		if !ok {
			return reject(ReasonNotValid, "%q is not a number", value)
		}
		if p.Type == v1beta1.INT && !n.IsInt() {
			return reject(ReasonNotValid, "%q is not an integer", value)
		}
		if lo, ok := parseNumber(p.Minimum); ok && p.Minimum != "" && n.Cmp(lo) < 0 {
			return reject(ReasonOutOfBounds, "%s is below the minimum %s", value, p.Minimum)
		}
		if hi, ok := parseNumber(p.Maximum); ok && p.Maximum != "" && n.Cmp(hi) > 0 {
			return reject(ReasonOutOfBounds, "%s is above the maximum %s", value, p.Maximum)
		}
	}
	return nil
}
