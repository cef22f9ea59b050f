package host

import (
	"time"

	"github.com/petiole-io/petiole/devices"
)

// desiredState is a desired value and how far it was applied. It survives restarts.
type desiredState struct {
	Digest  string              `json:"mark"`
	Version string              `json:"version"`
	Value   string              `json:"value"`
	Policy  devices.DriftPolicy `json:"policy,omitempty"`
	Ack     devices.Ack         `json:"ack"`
	Reason  string              `json:"reason,omitempty"`
	Message string              `json:"message,omitempty"`
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
func mergeDesired(desired []devices.Desired, version, basis string, recorded map[string]desiredState) (now map[string]desiredState, superseded map[string]desiredState) {
	now, superseded = make(map[string]desiredState, len(desired)), map[string]desiredState{}
	for _, d := range desired {
		c, ok := recorded[d.Property]
		if ok && c.Digest == d.Digest {
			refused := (c.Ack == devices.Rejected || c.Ack == devices.Failed) && c.Basis != basis && d.Invalid == ""
			if refused || c.Policy == devices.DriftObserve && d.Policy != devices.DriftObserve {
				c.Ack, c.Reason, c.Message, c.Basis = devices.Pending, "", "", ""
			}
			c.Policy = d.Policy
			now[d.Property] = c
			continue
		}
		if ok && c.Ack == devices.Pending {
			superseded[d.Property] = c
		}
		fresh := desiredState{Digest: d.Digest, Version: version, Value: d.Value, Policy: d.Policy, Ack: devices.Pending}
		if !d.Expires.IsZero() {
			fresh.Expires = d.Expires.UnixMilli()
		}
		if d.Invalid != "" {
			fresh.Ack, fresh.Reason, fresh.Message = devices.Rejected, devices.ReasonNotValid, d.Invalid
		}
		now[d.Property] = fresh
	}
	for p, c := range recorded {
		if _, ok := now[p]; !ok && c.Ack == devices.Pending {
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
	case c.Ack == devices.Pending && c.Policy != devices.DriftObserve:
	case c.Ack == devices.Drifted && c.Policy == devices.DriftEnforce && c.Reason != devices.ReasonEnforceEnded:
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
