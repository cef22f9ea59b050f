package twin

import (
	"strconv"
	"strings"
	"time"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// Twin is the latest known state of a point. Its value is the last good one: it stays, with
// its time, when the quality gets worse.
type Twin struct {
	shown
	value devices.Value
	// seen is the time of the newest reading, good or bad.
	seen time.Time
	// lastSample is the newest time of a sample, ms since 1970.
	lastSample int64
	// faulty reports that the point cannot be read although the device responds.
	faulty   bool
	reported reportedTwin
}

// shown is the part of a twin that a DeviceStatus shows.
type shown struct {
	// Text is the value in string form.
	Text    string
	Quality devices.Quality
	Reason  string
	// Time is when the value was last read, and changed when it was first read.
	Time, changed time.Time
	// since is when the quality last changed.
	since time.Time
	// restored was reported before a restart, nil if nothing was; it counts until there is a good
	// reading. It is never changed.
	restored *v1beta1.TwinProperty
}

// reportedTwin is the part of a twin that was in the last status.
type reportedTwin struct {
	value   devices.Value
	quality devices.Quality
	reason  string
}

// outdated reports whether a reading is older than a known one, as when a write overtakes a
// poll. It is then ignored.
func (t *Twin) outdated(r devices.Reading) bool { return r.Time.Before(t.seen) }

// observe applies a reading that is not outdated, and reports whether it is a sample: of bad
// readings in a row only the first is one.
func (t *Twin) observe(r devices.Reading) (sample bool) {
	if r.Quality != devices.Bad && r.Value.Kind() == devices.None {
		r.Quality, r.Reason = devices.Bad, devices.ReasonNoValue
	}
	t.seen = r.Time
	again := t.Quality == r.Quality && t.Reason == r.Reason
	if t.Quality != r.Quality {
		t.since = r.Time
	}
	t.lastSample = max(t.lastSample, r.Time.UnixMilli())
	t.Quality, t.Reason = r.Quality, r.Reason
	if r.Quality == devices.Bad {
		return !again
	}
	if t.value != r.Value {
		t.value, t.Text, t.changed = r.Value, r.Value.String(), r.Time
	}
	t.Time = r.Time
	return true
}

// fails reports whether the point cannot be read. A device that responds that it has no value
// works.
func (t *Twin) fails() bool {
	return t.Quality == devices.Bad && t.Reason != devices.ReasonNotAvailable
}

// sampled returns the value of the sample of a reading: none if its quality is bad.
func (t *Twin) sampled(r devices.Reading) devices.Value {
	if t.Quality == devices.Bad {
		return devices.Value{}
	}
	return r.Value
}

// makeUncertain makes a good value uncertain, and reports whether it was good.
func (t *Twin) makeUncertain(reason string, now time.Time) bool {
	if t.Quality != devices.Good {
		return false
	}
	t.Quality, t.Reason, t.since = devices.Uncertain, reason, now
	return true
}

// differs reports whether the twin differs from the last status by more than the deadbands.
func (t *Twin) differs(r devices.Reporting) bool {
	return t.Quality != t.reported.quality || t.Reason != t.reported.reason || r.Exceeds(t.reported.value, t.value)
}

// markReported records that the present state is in a status.
func (t *Twin) markReported() { t.reported = reportedTwin{t.value, t.Quality, t.Reason} }

// The keys of a reported value's metadata that are read after a restart.
const (
	metaType      = "type"
	metaTimestamp = "timestamp"
	metaChangedAt = "changedAt"
)

func typeName(typ v1beta1.PropertyType) string { return strings.ToLower(string(typ)) }

// known reports whether there is anything to report.
func (t *shown) known() bool { return t.Quality != "" || t.restored != nil }

// property returns the twin for a DeviceStatus. With a value that is not good it has the
// value's age in milliseconds, as of now.
func (t *shown) property(typ v1beta1.PropertyType, now time.Time) *v1beta1.TwinProperty {
	quality, reason, text, read, changed := t.Quality, t.Reason, t.Text, t.Time, t.changed
	if old := t.restored; read.IsZero() && old != nil {
		text, read, changed = old.Value, parseMilliseconds(old.Metadata[metaTimestamp]), parseMilliseconds(old.Metadata[metaChangedAt])
		if quality == "" {
			quality, reason = devices.Uncertain, devices.ReasonNotReadYet
		}
	}
	m := map[string]string{metaType: typeName(typ), "quality": string(quality)}
	stamp := func(key string, at time.Time) {
		if !at.IsZero() {
			m[key] = strconv.FormatInt(at.UnixMilli(), 10)
		}
	}
	stamp(metaTimestamp, read)
	stamp(metaChangedAt, changed)
	if reason != "" {
		m["reason"] = reason
	}
	if quality != devices.Good {
		stamp("since", t.since)
		if !read.IsZero() {
			m["age"] = strconv.FormatInt(max(now.Sub(read).Milliseconds(), 0), 10)
		}
	}
	return &v1beta1.TwinProperty{Value: text, Metadata: m}
}

// parseMilliseconds parses a time in ms since 1970; zero if it is none.
func parseMilliseconds(s string) time.Time {
	ms, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}
