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

// The metadata of desired values that this package reads. Keys are not case-sensitive.
const (
	// MetaExpiresAt is the time after which the value is not written: RFC 3339, or
	// milliseconds since 1970. Absent: never.
	MetaExpiresAt = "expiresAt"
	// MetaDriftPolicy is a DriftPolicy; it overrides the setting of the same name.
	MetaDriftPolicy = "driftPolicy"
	// MetaRewriteEvery is the time in milliseconds after which the value is written again; it
	// overrides the setting of the same name. 0: it is written once.
	MetaRewriteEvery = "rewriteEvery"
)

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
		case strings.EqualFold(k, MetaRewriteEvery):
			ms, err := strconv.ParseInt(v, 10, 64)
			d.Rewrite = time.Duration(min(ms, longestSetting)) * time.Millisecond
			if err != nil || ms < 0 || ms > 0 && d.Rewrite < shortestRewrite {
				d.Invalid = "rewriteEvery " + strconv.Quote(v) + " is neither 0 nor a number of milliseconds from " + strconv.FormatInt(shortestRewrite.Milliseconds(), 10)
				d.Rewrite = 0
			}
			d.ownRewrite = true
		}
	}
}

// writing takes over the settings of the property that the metadata does not override.
func (d *Desired) writing(w Writing) {
	if d.Policy == "" {
		d.Policy = w.Drift
	}
	if !d.ownRewrite {
		d.Rewrite = w.Rewrite
	}
}

// ExpiresAt returns the time after which a desired value with the metadata is not written; zero:
// there is none.
func ExpiresAt(metadata map[string]string) time.Time {
	for k, v := range metadata {
		if strings.EqualFold(k, MetaExpiresAt) {
			t, _ := parseTime(strings.TrimSpace(v))
			return t
		}
	}
	return time.Time{}
}

func parseTime(s string) (time.Time, bool) {
	if ms, err := strconv.ParseInt(s, 10, 64); err == nil && ms > 0 {
		return time.UnixMilli(ms), true
	}
	t, err := time.Parse(time.RFC3339, s)
	return t, err == nil
}
