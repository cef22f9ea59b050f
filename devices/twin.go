package devices

import (
	"strconv"
	"strings"
	"time"

	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// twin is the last that is known of a point. Value is the last good one: it stays,
// with its time, when the quality gets worse.
type twin struct {
	value   Value
	text    string
	quality Quality
	reason  string
	// time is when the value was read, and changed when it was first read so.
	time, changed time.Time
	// since is when the quality became what it is, and seen the time of the newest
	// reading, good or bad.
	since, seen time.Time
	// stamp is the newest time that was given to a sample, ms since 1970.
	stamp int64
	// faulty tells that a device which answers cannot be read of the point.
	faulty bool
	told   told
}

// told is what the last status said.
type told struct {
	value   Value
	quality Quality
	reason  string
	time    time.Time
}

// late tells a reading that is older than what is known: a poll that a write overtook.
// It says nothing any more.
func (t *twin) late(r Reading) bool { return r.Time.Before(t.seen) }

// observe takes a reading that is not late, and tells whether it is a sample: bad
// readings repeat nothing, so only the first of a row counts.
func (t *twin) observe(r Reading) (sample bool) {
	if r.Quality != Bad && r.Value.Kind() == None {
		r.Quality, r.Reason = Bad, ReasonNoValue
	}
	t.seen = r.Time
	again := t.quality == r.Quality && t.reason == r.Reason
	if t.quality != r.Quality {
		t.since = r.Time
	}
	t.stamp = max(t.stamp, r.Time.UnixMilli())
	t.quality, t.reason = r.Quality, r.Reason
	if r.Quality == Bad {
		return !again
	}
	if t.value != r.Value {
		t.value, t.text, t.changed = r.Value, r.Value.String(), r.Time
	}
	t.time = r.Time
	return true
}

// doubt makes a good value uncertain, and tells whether it was good.
func (t *twin) doubt(reason string, now time.Time) bool {
	if t.quality != Good {
		return false
	}
	t.quality, t.reason, t.since = Uncertain, reason, now
	return true
}

// news tells whether the twin differs from what was told of it by more than the
// dead-bands.
func (t *twin) news(r Reporting) bool {
	return t.quality != t.told.quality || t.reason != t.told.reason || r.exceeds(t.told.value, t.value)
}

// tell remembers what is told now.
func (t *twin) tell() { t.told = told{t.value, t.quality, t.reason, t.time} }

// property is the twin in a DeviceStatus. A value that is not good has its age in
// milliseconds beside it, as of now.
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
	if t.quality != Good {
		stamp("since", t.since)
		if !t.time.IsZero() {
			m["age"] = strconv.FormatInt(max(now.Sub(t.time).Milliseconds(), 0), 10)
		}
	}
	return &v1beta1.TwinProperty{Value: t.text, Metadata: m}
}
