package devices

import (
	"encoding/hex"
	"strings"

	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// Ack is what became of a desired value.
type Ack string

// The acks. Pending is the only one that is not final; drifted means that it was
// applied and the device has another value now.
const (
	Pending    Ack = "pending"
	Applied    Ack = "applied"
	Rejected   Ack = "rejected"
	Failed     Ack = "failed"
	Superseded Ack = "superseded"
	Drifted    Ack = "drifted"
)

// command is a desired value with what became of it. It is what survives a restart.
type command struct {
	Mark    string `json:"mark"`
	Version string `json:"version"`
	Value   string `json:"value"`
	Ack     Ack    `json:"ack"`
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
	// Actual is the property's value in string form right after the write.
	Actual string `json:"actual,omitempty"`
	// Basis is the mark of the definition under which the value was settled.
	Basis string `json:"basis,omitempty"`
	Time  int64  `json:"time,omitempty"`
}

// next decides what follows from the desired values of a device, given what is
// recorded of earlier ones: the commands as they shall be, and the earlier ones
// that never were carried out because newer ones took their place. A value that was
// settled is not touched again; one that was pending stays pending, so that after a
// restart it is compared with the device and written only if it is not there. One
// that was refused is tried again when the definition (basis) has changed.
// It is pure.
func next(desired []Desired, version, basis string, recorded map[string]command) (now map[string]command, superseded map[string]command) {
	now, superseded = make(map[string]command, len(desired)), map[string]command{}
	for _, d := range desired {
		c, ok := recorded[d.Property]
		if ok && c.Mark == d.Mark {
			if (c.Ack == Rejected || c.Ack == Failed) && c.Basis != basis {
				c.Ack, c.Reason, c.Message, c.Basis = Pending, "", "", ""
			}
			now[d.Property] = c
			continue
		}
		if ok && c.Ack == Pending {
			superseded[d.Property] = c
		}
		now[d.Property] = command{Mark: d.Mark, Version: version, Value: d.Value, Ack: Pending}
	}
	for p, c := range recorded {
		if _, ok := now[p]; !ok && c.Ack == Pending {
			superseded[p] = c
		}
	}
	return now, superseded
}

// check rejects a desired value that the point cannot take, before the driver is
// asked. Nil means that it may be tried.
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

// drifted tells whether a settled value is no longer the device's.
func drifted(c command, reported string) bool {
	return (c.Ack == Applied || c.Ack == Drifted) && c.Actual != "" && reported != c.Actual
}
