package host

import (
	"hash/fnv"
	"time"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// observe handles a batch of readings from the session.
func (w *worker) observe(b devices.Batch) {
	now := time.Now()
	b.Time = notFuture(b.Time, now)
	if w.hasOlder(b) && w.clock.setBack(now) {
		w.startEpoch(now)
	}
	changed := false
	samples := make([]devices.Sample, 0, len(b.Readings))
	w.host.counters.Readings.Add(uint64(len(b.Readings)))
	for _, r := range b.Readings {
		if r.Point < 0 || r.Point >= len(w.facts.points) {
			continue
		}
		r.Time = notFuture(r.Time, now)
		t, p := &w.facts.twins[r.Point], &w.facts.points[r.Point]
		if t.outdated(r) {
			w.host.counters.Late.Add(1)
			continue
		}
		was := t.quality
		if t.observe(r) {
			samples = append(samples, devices.Sample{Property: p.Name, Value: valueOf(t, r), Quality: t.quality, Reason: t.reason, Time: t.lastSample})
		}
		t.faulty = t.quality == devices.Bad
		if was != devices.Good && t.quality == devices.Good && p.Reporting.StaleAfter > 0 {
			w.scheduleCheck(now.Add(p.Reporting.StaleAfter))
		}
		changed = changed || p.Report && t.differs(p.Reporting)
		if t.quality == devices.Good && w.desired.compare(r.Point, now) {
			changed = true
		}
	}
	if len(samples) > 0 {
		w.records.Samples(samples)
	}
	if w.updateHealth(b, now) || changed {
		w.changed()
	}
}

// hasOlder reports whether a batch has readings older than known ones.
func (w *worker) hasOlder(b devices.Batch) bool {
	for _, r := range b.Readings {
		if r.Point < 0 || r.Point >= len(w.facts.twins) || r.Time.IsZero() {
			continue
		}
		if t := &w.facts.twins[r.Point]; t.outdated(r) || r.Time.UnixMilli() < t.lastSample {
			return true
		}
	}
	return false
}

// notFuture returns t, or now if t is zero or in the future.
func notFuture(t, now time.Time) time.Time {
	if t.IsZero() || t.After(now) {
		return now
	}
	return t
}

// valueOf returns the value of a sample: none if its quality is bad.
func valueOf(t *twin, r devices.Reading) devices.Value {
	if t.quality == devices.Bad {
		return devices.Value{}
	}
	return r.Value
}

// startEpoch starts a new epoch after the wall clock was set back: the times of later samples
// are before those of earlier ones.
func (w *worker) startEpoch(now time.Time) {
	w.records.StartEpoch(now)
	for i := range w.facts.twins {
		w.facts.twins[i].lastSample, w.facts.twins[i].seen = 0, time.Time{}
	}
	w.log.Warn("clock was set back, new epoch of samples started")
}

// updateHealth updates the device's state after a batch, and reports whether it changed.
func (w *worker) updateHealth(b devices.Batch, now time.Time) bool {
	was := w.facts.health
	if b.Reachable {
		w.unreachable = 0
		w.reopenBackoff.Reset()
		w.facts.lastOnline = b.Time
	} else {
		w.unreachable++
		if partial := len(b.Readings) > 0 && len(b.Readings) < len(w.facts.points); partial && w.unreachable == 1 && was.answers() {
			return false // one request of several: the next one shows whether the device is offline
		}
	}
	if b.Reachable && !was.answers() {
		w.clearFaults(b.Readings...)
	}
	is := was.afterBatch(b, w.faultyCount(), w.facts.problems)
	if is.state == was.state && is.reason == was.reason {
		return false // a different message alone does not justify a status
	}
	w.setHealth(is)
	switch {
	case !is.answers():
		w.handleOffline(was, now)
	case !was.answers():
		w.log.Info("device online")
		w.records.Event(devices.EventNormal, devices.ReasonOnline, "the device responds")
		w.desired.returned(was.state == v1beta1.StateOffline)
	case is.state == devices.StateDegraded:
		w.records.Event(devices.EventWarning, is.reason, w.facts.message())
	default:
		w.records.Event(devices.EventNormal, devices.ReasonOnline, "all properties can be read")
	}
	return true
}

// handleOffline makes the values of a device uncertain that has gone offline.
func (w *worker) handleOffline(was health, now time.Time) {
	w.clearFaults()
	w.makeAllUncertain(devices.ReasonOffline, now)
	if is := w.facts.health; was.state != is.state {
		w.log.Warn("device offline", zap.String("reason", is.reason), zap.String("message", is.message))
		w.records.Event(devices.EventWarning, devices.ReasonOffline, is.reason+": "+is.message)
		w.needsSave = true // the time it was last online
		w.desired.schedule(now)
	}
}

// makeAllUncertain makes all good values uncertain.
func (w *worker) makeAllUncertain(reason string, now time.Time) {
	for i := range w.facts.twins {
		w.facts.twins[i].makeUncertain(reason, now)
	}
}

// faultyCount counts the properties that cannot be read although the device responds.
func (w *worker) faultyCount() int {
	n := 0
	for i := range w.facts.twins {
		if w.facts.twins[i].faulty {
			n++
		}
	}
	return n
}

// clearFaults clears the faults of all properties, which failed because the whole device did,
// except those of the given readings.
func (w *worker) clearFaults(but ...devices.Reading) {
	for i := range w.facts.twins {
		w.facts.twins[i].faulty = false
	}
	for _, r := range but {
		if r.Point >= 0 && r.Point < len(w.facts.twins) {
			w.facts.twins[r.Point].faulty = w.facts.twins[r.Point].quality == devices.Bad
		}
	}
}

func (w *worker) setHealth(h health) {
	w.host.counters.MoveDevice(w.facts.health.state, h.state)
	w.facts.health = h
}

// checkTimes makes values uncertain that were not read for long, and repeats an old status
// if it has a newer time to report.
func (w *worker) checkTimes(now time.Time) {
	w.checkAt = time.Time{}
	for i := range w.facts.twins {
		t, p := &w.facts.twins[i], &w.facts.points[i]
		if t.quality != devices.Good || p.Reporting.StaleAfter == 0 {
			continue
		}
		if at := t.seen.Add(p.Reporting.StaleAfter); now.Before(at) {
			w.scheduleCheck(at)
		} else if t.makeUncertain(devices.ReasonOld, now) && p.Report {
			w.changed()
		}
	}
	every := repeatAfter(w.def)
	if w.dirty || w.statusAt.IsZero() || every == 0 {
		return
	}
	if at := w.statusAt.Add(every); now.Before(at) {
		w.scheduleCheck(at)
	} else if w.facts.lastOnline.After(w.statusLastOnline) {
		w.changed()
	} else {
		w.scheduleCheck(now.Add(every))
	}
}

func (w *worker) scheduleCheck(t time.Time) {
	if w.checkAt.IsZero() || t.Before(w.checkAt) {
		w.checkAt = t
	}
}

// changed schedules a status. Before the device was contacted there is nothing to report: the
// previous status stays.
func (w *worker) changed() {
	if w.facts.health.reason != devices.ReasonConnecting || len(w.facts.problems) > 0 || len(w.facts.points) == 0 {
		w.dirty = true
	}
}

// sendStatus passes the present status to the status writer, which is ready for it.
func (w *worker) sendStatus(now time.Time) {
	w.dirty = false
	for i := range w.facts.twins {
		w.facts.twins[i].markReported()
	}
	w.statusAt, w.statusLastOnline = now, w.facts.lastOnline
	w.scheduleCheck(now.Add(repeatAfter(w.def)))
	w.status.Send(w.facts.snapshot().status)
}

// repeatAfter returns the time after which a status is repeated that has nothing new but
// times: the shortest of the settings of the device and its reported points. A hash of the
// name spreads it over its last quarter, so that devices that start together do not report
// together.
func repeatAfter(d devices.Definition) time.Duration {
	shortest := d.Report.Cycle
	for _, p := range d.Points {
		if h := p.Reporting.Heartbeat; p.Report && h > 0 && (shortest == 0 || h < shortest) {
			shortest = h
		}
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(d.Device.String())) // never fails
	return shortest - time.Duration(uint64(h.Sum32())*uint64(shortest/4)>>32)
}
