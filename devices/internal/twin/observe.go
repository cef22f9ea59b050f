package twin

import (
	"maps"
	"time"

	"github.com/petiole-io/petiole/devices"
)

// Observation is what followed from a batch of readings.
type Observation struct {
	Samples []devices.Sample
	// Compare are the points with a desired value whose value is good.
	Compare []int
	// Late is the number of readings that were older than known ones, and therefore ignored.
	Late int
	// Changed reports that there is something to report in a status.
	Changed bool
	// CheckAt is when CheckAge should be called at the latest; zero: no new time.
	CheckAt time.Time
}

// Observe applies the readings of a batch to the twins.
func (d *Device) Observe(b devices.Batch, now time.Time) Observation {
	o := Observation{Samples: make([]devices.Sample, 0, len(b.Readings))}
	if b.Identification != nil && !maps.Equal(b.Identification, d.Identification) {
		d.Identification = b.Identification // never changed, so that a Snapshot may share it
		o.Changed = true
	}
	for _, r := range b.Readings {
		if r.Point < 0 || r.Point >= len(d.Twins) {
			continue
		}
		r.Time = NotFuture(r.Time, now)
		t, p := &d.Twins[r.Point], &d.Definition.Points[r.Point]
		if t.outdated(r) {
			o.Late++
			continue
		}
		was := t.Quality
		if t.observe(r) {
			o.Samples = append(o.Samples, devices.Sample{Property: p.Name, Value: t.sampled(r), Quality: t.Quality, Reason: t.Reason, Time: t.lastSample})
		}
		t.faulty = t.fails()
		if was != devices.Good && t.Quality == devices.Good && p.Reporting.StaleAfter > 0 {
			o.CheckAt = earliest(o.CheckAt, now.Add(p.Reporting.StaleAfter))
		}
		o.Changed = o.Changed || p.Report && t.differs(p.Reporting)
		if _, ok := d.Desired[p.Name]; ok && t.Quality == devices.Good {
			o.Compare = append(o.Compare, r.Point)
		}
	}
	return o
}

// HasOlder reports whether a batch has readings older than known ones.
func (d *Device) HasOlder(b devices.Batch) bool {
	for _, r := range b.Readings {
		if r.Point < 0 || r.Point >= len(d.Twins) || r.Time.IsZero() {
			continue
		}
		if t := &d.Twins[r.Point]; t.outdated(r) || r.Time.UnixMilli() < t.lastSample {
			return true
		}
	}
	return false
}

// StartEpoch begins a new epoch, whose times may be before those of earlier samples.
func (d *Device) StartEpoch() {
	for i := range d.Twins {
		d.Twins[i].lastSample, d.Twins[i].seen = 0, time.Time{}
	}
}

// NotFuture returns t, or now if t is zero or in the future.
func NotFuture(t, now time.Time) time.Time {
	if t.IsZero() || t.After(now) {
		return now
	}
	return t
}

// earliest returns the earlier of two times, of which the first may be zero.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

// UpdateHealth updates the health after a batch that was observed, and reports whether state
// or reason changed. The values of a device that has gone offline become uncertain.
func (d *Device) UpdateHealth(b devices.Batch, now time.Time) (was Health, changed bool) {
	was = d.Health
	if b.Reachable {
		d.unreachable = 0
		d.LastOnline = b.Time
	} else {
		d.unreachable++
		if partial := len(b.Readings) > 0 && len(b.Readings) < len(d.Twins); partial && d.unreachable == 1 && was.Answers() {
			return was, false // one request of several: the next one shows whether the device is offline
		}
	}
	if b.Reachable && !was.Answers() {
		d.clearFaults(b.Readings...)
	}
	is := was.afterBatch(b, d.faulty(), d.Problems)
	if is.State == was.State && is.Reason == was.Reason {
		return was, false // a different message alone does not justify a status
	}
	d.Health = is
	if is.Answers() && !was.Answers() {
		d.OnlineSince = b.Time
	}
	if !is.Answers() {
		d.OnlineSince = time.Time{}
		d.clearFaults()
		d.MakeUncertain(devices.ReasonOffline, now)
	}
	return was, true
}

// MakeUncertain makes all good values uncertain.
func (d *Device) MakeUncertain(reason string, now time.Time) {
	for i := range d.Twins {
		d.Twins[i].makeUncertain(reason, now)
	}
}

// faulty counts the properties that cannot be read although the device responds.
func (d *Device) faulty() int {
	n := 0
	for i := range d.Twins {
		if d.Twins[i].faulty {
			n++
		}
	}
	return n
}

// clearFaults clears the faults of all properties, which failed because the whole device did,
// except those of the given readings.
func (d *Device) clearFaults(but ...devices.Reading) {
	for i := range d.Twins {
		d.Twins[i].faulty = false
	}
	for _, r := range but {
		if r.Point >= 0 && r.Point < len(d.Twins) {
			d.Twins[r.Point].faulty = d.Twins[r.Point].fails()
		}
	}
}

// CheckAge makes values uncertain that were not read for long. It returns whether one of them
// is to be reported, and when it should be called again, zero if there is no such time.
func (d *Device) CheckAge(now time.Time) (changed bool, next time.Time) {
	for i := range d.Twins {
		t, p := &d.Twins[i], &d.Definition.Points[i]
		if t.Quality != devices.Good || p.Reporting.StaleAfter == 0 {
			continue
		}
		if at := t.seen.Add(p.Reporting.StaleAfter); now.Before(at) {
			next = earliest(next, at)
		} else if t.makeUncertain(devices.ReasonOld, now) && p.Report {
			changed = true
		}
	}
	return changed, next
}

// MarkReported records that the present state of all points is in a status.
func (d *Device) MarkReported() {
	for i := range d.Twins {
		d.Twins[i].markReported()
	}
}
