package devices

import (
	"strconv"
	"strings"
	"time"
)

// Ack is the state of a desired value or of a command.
type Ack string

// The acks. Pending is the only one that is not final. Drifted means that the device has
// another value than the desired one. Expired means that the value was not written before
// its expiresAt and never will be.
const (
	Pending    Ack = "pending"
	Applied    Ack = "applied"
	Rejected   Ack = "rejected"
	Failed     Ack = "failed"
	Superseded Ack = "superseded"
	Expired    Ack = "expired"
	Drifted    Ack = "drifted"
)

// acks are all acks, the labels of Stats.
var acks = []Ack{Pending, Applied, Rejected, Failed, Superseded, Expired, Drifted}

// The metadata of desired values that this package reads. Keys are not case-sensitive.
const (
	// MetaExpiresAt is the time after which the value is not written: RFC 3339, or
	// milliseconds since 1970. Absent: never.
	MetaExpiresAt = "expiresAt"
	// MetaDriftPolicy is a DriftPolicy; it overrides the setting of the same name.
	MetaDriftPolicy = "driftPolicy"
)

// desiredState is a desired value and how far it was applied. It survives restarts.
type desiredState struct {
	Digest  string      `json:"mark"`
	Version string      `json:"version"`
	Value   string      `json:"value"`
	Policy  DriftPolicy `json:"policy,omitempty"`
	Ack     Ack         `json:"ack"`
	Reason  string      `json:"reason,omitempty"`
	Message string      `json:"message,omitempty"`
	// Actual is the property's value in string form right after the write.
	Actual string `json:"actual,omitempty"`
	// Basis is the digest of the definition with which the value was concluded.
	Basis string `json:"basis,omitempty"`
	// Time is when it was concluded or last tried, ms since 1970.
	Time int64 `json:"time,omitempty"`
	// Expires is the time after which it is not written, ms since 1970; 0: never.
	Expires int64 `json:"expires,omitempty"`
	// Enforced counts how often in a row it was enforced, and Due is when it may be enforced
	// again, ms since 1970.
	Enforced int   `json:"asserts,omitempty"`
	Due      int64 `json:"due,omitempty"`
}

// mergeDesired merges the desired values of a device with the recorded states of earlier
// ones. It returns the new states, and the pending ones that newer values supersede. A value
// that was concluded keeps its state; a pending one stays pending, so that after a restart it
// is compared with the device and written only if it differs. One that was refused becomes
// pending again if the definition (basis) has changed. It is a pure function.
func mergeDesired(desired []Desired, version, basis string, recorded map[string]desiredState) (now map[string]desiredState, superseded map[string]desiredState) {
	now, superseded = make(map[string]desiredState, len(desired)), map[string]desiredState{}
	for _, d := range desired {
		c, ok := recorded[d.Property]
		if ok && c.Digest == d.Digest {
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
		fresh := desiredState{Digest: d.Digest, Version: version, Value: d.Value, Policy: d.Policy, Ack: Pending}
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

// sameAs reports whether both are the same desired value, whatever their acks.
func (c desiredState) sameAs(other desiredState) bool {
	return c.Digest == other.Digest && c.Version == other.Version
}

// due reports whether the value waits to be written, and from what time it may be.
func (c desiredState) due() (since time.Time, waits bool) {
	switch {
	case c.Ack == Pending && c.Policy != DriftObserve:
	case c.Ack == Drifted && c.Policy == DriftEnforce && c.Reason != ReasonEnforceEnded:
	default:
		return time.Time{}, false
	}
	return time.UnixMilli(c.Due), true
}

// expired reports whether the value may no longer be written. An applied value stays
// applied, but is no longer enforced.
func (c desiredState) expired(now time.Time) bool {
	return c.Expires != 0 && now.UnixMilli() >= c.Expires
}

// metadata parses the metadata of a desired value.
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
