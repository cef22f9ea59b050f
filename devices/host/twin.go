package host

import (
	"strconv"
	"strings"
	"time"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// twin is the latest known state of a point. Value is the last good one: it stays, with its
// time, when the quality gets worse.
type twin struct {
	value   devices.Value
	text    string
	quality devices.Quality
	reason  string
	// time is when the value was last read, and changed when it was first read.
	time, changed time.Time
	// since is when the quality last changed, and seen the time of the newest reading, good
	// or bad.
	since, seen time.Time
	// lastSample is the newest time of a sample, ms since 1970.
	lastSample int64
	// faulty reports that the point cannot be read although the device responds.
	faulty   bool
	reported reportedTwin
}

// reportedTwin is the part of a twin that was in the last status.
type reportedTwin struct {
	value   devices.Value
	quality devices.Quality
	reason  string
	time    time.Time
}

// outdated reports whether a reading is older than a known one, as when a write overtakes a
// poll. It is then ignored.
func (t *twin) outdated(r devices.Reading) bool { return r.Time.Before(t.seen) }

// observe applies a reading that is not outdated, and reports whether it is a sample: of bad
// readings in a row only the first is one.
func (t *twin) observe(r devices.Reading) (sample bool) {
	if r.Quality != devices.Bad && r.Value.Kind() == devices.None {
		r.Quality, r.Reason = devices.Bad, devices.ReasonNoValue
	}
	t.seen = r.Time
	again := t.quality == r.Quality && t.reason == r.Reason
	if t.quality != r.Quality {
		t.since = r.Time
	}
	t.lastSample = max(t.lastSample, r.Time.UnixMilli())
	t.quality, t.reason = r.Quality, r.Reason
	if r.Quality == devices.Bad {
		return !again
	}
	if t.value != r.Value {
		t.value, t.text, t.changed = r.Value, r.Value.String(), r.Time
	}
	t.time = r.Time
	return true
}

// makeUncertain makes a good value uncertain, and reports whether it was good.
func (t *twin) makeUncertain(reason string, now time.Time) bool {
	if t.quality != devices.Good {
		return false
	}
	t.quality, t.reason, t.since = devices.Uncertain, reason, now
	return true
}

// differs reports whether the twin differs from the last status by more than the deadbands.
func (t *twin) differs(r devices.Reporting) bool {
	return t.quality != t.reported.quality || t.reason != t.reported.reason || r.Exceeds(t.reported.value, t.value)
}

// markReported records that the present state is in a status.
func (t *twin) markReported() { t.reported = reportedTwin{t.value, t.quality, t.reason, t.time} }

// property returns the twin for a DeviceStatus. With a value that is not good it has the
// value's age in milliseconds, as of now.
func (t *twin) property(typ v1beta1.PropertyType, now time.Time) *v1beta1.TwinProperty {
	m := map[string]string{"type": strings.ToLower(string(typ)), "quality": string(t.quality)}
	stamp := func(key string, at time.Time) {
		if !at.IsZero() {
			m[key] = strconv.FormatInt(at.UnixMilli(), 10)
		}
	}
	stamp("timestamp", t.time)
	stamp("changedAt", t.changed)
	if t.reason != "" {
		m["reason"] = t.reason
	}
	if t.quality != devices.Good {
		stamp("since", t.since)
		if !t.time.IsZero() {
			m["age"] = strconv.FormatInt(max(now.Sub(t.time).Milliseconds(), 0), 10)
		}
	}
	return &v1beta1.TwinProperty{Value: t.text, Metadata: m}
}
