// Package desired decides what becomes of the desired values of a device: which of them wait to
// be written, and what follows when the device has other values. It does no I/O.
package desired

import (
	"strconv"
	"strings"
	"time"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// State is a desired value and how far it was applied. It survives restarts.
type State struct {
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
	// Rewrite is the time in ms after which it is written again; 0: it is written once.
	Rewrite int64 `json:"rewrite,omitempty"`
	// Enforced counts how often in a row it was enforced, and Due is when it may be enforced
	// or written again, ms since 1970.
	Enforced int   `json:"asserts,omitempty"`
	Due      int64 `json:"due,omitempty"`
}

// Merge merges the desired values of a device with the recorded states of earlier
// ones. It returns the new states, and the pending ones that newer values supersede. A value
// that was concluded keeps its state; a pending one stays pending, so that after a restart it
// is compared with the device and written only if it differs. One that was refused becomes
// pending again if the definition (basis) has changed. It is a pure function.
func Merge(desired []devices.Desired, version, basis string, recorded map[string]State) (now map[string]State, superseded map[string]State) {
	now, superseded = make(map[string]State, len(desired)), map[string]State{}
	for _, d := range desired {
		c, ok := recorded[d.Property]
		if ok && c.Digest == d.Digest {
			refused := (c.Ack == devices.Rejected || c.Ack == devices.Failed) && c.Basis != basis && d.Invalid == ""
			if refused || c.Policy == devices.DriftObserve && d.Policy != devices.DriftObserve {
				c.Ack, c.Reason, c.Message, c.Basis = devices.Pending, "", "", ""
			}
			c.Policy = d.Policy
			if rewrite := d.Rewrite.Milliseconds(); c.Rewrite != rewrite {
				c.Rewrite, c.Due = rewrite, 0
			}
			now[d.Property] = c
			continue
		}
		if ok && c.Ack == devices.Pending {
			superseded[d.Property] = c
		}
		fresh := State{Digest: d.Digest, Version: version, Value: d.Value, Policy: d.Policy, Rewrite: d.Rewrite.Milliseconds(), Ack: devices.Pending}
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

// SameAs reports whether both are the same desired value, whatever their acks.
func (c State) SameAs(other State) bool {
	return c.Digest == other.Digest && c.Version == other.Version
}

// Waits reports whether the value waits to be written, and from what time it may be.
func (c State) Waits() (since time.Time, waits bool) {
	switch {
	case c.Ack == devices.Pending && c.Policy != devices.DriftObserve:
	case c.Ack == devices.Drifted && c.Policy == devices.DriftEnforce && c.Reason != devices.ReasonEnforceEnded:
	case c.Rewrites():
	default:
		return time.Time{}, false
	}
	return time.UnixMilli(c.Due), true
}

// Rewrites reports whether the value was written and is to be written again: for as long as it
// is desired, whatever the device did with it, unless it may never be written.
func (c State) Rewrites() bool {
	if c.Rewrite == 0 || c.Policy == devices.DriftObserve {
		return false
	}
	switch c.Ack {
	case devices.Applied, devices.Drifted, devices.Failed:
		return true
	case devices.Rejected:
		return c.RefusedByDevice()
	}
	return false
}

// RefusedByDevice reports whether it was the device that refused the value, which may accept it
// later.
func (c State) RefusedByDevice() bool {
	return c.Ack == devices.Rejected && (c.Reason == devices.ReasonRefused || c.Reason == devices.ReasonReadBack)
}

// Shift returns the state after the wall clock was set ahead: its times are by the clock.
func (c State) Shift(by time.Duration) State {
	if c.Due != 0 {
		c.Due += by.Milliseconds()
	}
	if c.Time != 0 {
		c.Time += by.Milliseconds()
	}
	return c
}

// AfterStart returns a state that was recorded by an earlier process, perhaps by another time: it
// waits no longer than from now on.
func (c State) AfterStart(now time.Time) State {
	if wait := max(time.Duration(c.Rewrite)*time.Millisecond, enforceLongest); c.Due > now.Add(wait).UnixMilli() {
		c.Due = now.Add(wait).UnixMilli()
	}
	c.Time = min(c.Time, now.UnixMilli())
	return c
}

// Property returns the desired value for a DeviceStatus.
func (c State) Property(typ v1beta1.PropertyType) *v1beta1.TwinProperty {
	m := map[string]string{"version": c.Version, "ack": string(c.Ack)}
	if typ != "" {
		m["type"] = strings.ToLower(string(typ))
	}
	if c.Time != 0 {
		m["timestamp"] = strconv.FormatInt(c.Time, 10)
	}
	if c.Reason != "" {
		m["reason"] = c.Reason
	}
	if c.Message != "" {
		m["message"] = c.Message
	}
	return &v1beta1.TwinProperty{Value: c.Value, Metadata: m}
}
