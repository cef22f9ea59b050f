package devices

import (
	"time"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// observe takes what a session has read.
func (w *worker) observe(b Batch) {
	now := time.Now()
	b.Time = past(b.Time, now)
	if w.backwards(b) && w.clock.setBack(now) {
		w.renumber(now)
	}
	news := false
	samples := make([]Sample, 0, len(b.Readings))
	w.host.meters.readings.Add(uint64(len(b.Readings)))
	for _, r := range b.Readings {
		if r.Point < 0 || r.Point >= len(w.facts.points) {
			continue
		}
		r.Time = past(r.Time, now)
		t, p := &w.facts.twins[r.Point], &w.facts.points[r.Point]
		if t.late(r) {
			w.host.meters.late.Add(1)
			continue
		}
		was := t.quality
		if t.observe(r) {
			samples = append(samples, Sample{Property: p.Name, Value: valueOf(t, r), Quality: t.quality, Reason: t.reason, Time: t.stamp})
		}
		t.faulty = t.quality == Bad
		if was != Good && t.quality == Good && p.Reporting.StaleAfter > 0 {
			w.checkBy(now.Add(p.Reporting.StaleAfter))
		}
		news = news || p.Report && t.news(p.Reporting)
		if t.quality == Good && w.compare(r.Point, now) {
			news = true
		}
	}
	if len(samples) > 0 {
		w.sequence++
		w.outbox.put(&Samples{Device: w.device, Node: w.host.node, Epoch: w.epoch, Sequence: w.sequence, Samples: samples})
	}
	if w.reach(b, now) || news {
		w.changed()
	}
}

// backwards tells whether readings of a batch are older than what is known.
func (w *worker) backwards(b Batch) bool {
	for _, r := range b.Readings {
		if r.Point < 0 || r.Point >= len(w.facts.twins) || r.Time.IsZero() {
			continue
		}
		if t := &w.facts.twins[r.Point]; t.late(r) || r.Time.UnixMilli() < t.stamp {
			return true
		}
	}
	return false
}

// past is a time that a driver told, but not one in the future.
func past(t, now time.Time) time.Time {
	if t.IsZero() || t.After(now) {
		return now
	}
	return t
}

// valueOf is the value of a sample: none, when it is bad.
func valueOf(t *twin, r Reading) Value {
	if t.quality == Bad {
		return Value{}
	}
	return r.Value
}

// renumber starts a new epoch, because the wall clock was set back: the times of the
// samples that follow are before those of the earlier ones.
func (w *worker) renumber(now time.Time) {
	w.epoch, w.sequence, w.audits = max(w.epoch+1, now.UnixMilli()), 0, 0
	for i := range w.facts.twins {
		w.facts.twins[i].stamp, w.facts.twins[i].seen = 0, time.Time{}
	}
	w.log.Warn("clock was set back, samples are numbered anew")
}

// reach tells whether the device's state changed with a batch.
func (w *worker) reach(b Batch, now time.Time) bool {
	was := w.facts.health
	if b.Reachable {
		w.misses, w.reopenWait = 0, writeRetry
		w.facts.lastOnline = b.Time
	} else {
		w.misses++
		if partial := len(b.Readings) > 0 && len(b.Readings) < len(w.facts.points); partial && w.misses == 1 && was.answers() {
			return false // one request of many: the next tells whether it is the device
		}
	}
	if b.Reachable && !was.answers() {
		w.forgetFaults(b.Readings...)
	}
	is := was.after(b, w.faults(), w.facts.problems)
	if is.state == was.state && is.reason == was.reason {
		return false // the message may differ every time and is not worth a status
	}
	w.setHealth(is)
	switch {
	case !is.answers():
		w.lost(was, now)
	case !was.answers():
		w.log.Info("device online")
		w.event(EventNormal, ReasonOnline, "the device answers")
		w.returned(was)
	case is.state == StateDegraded:
		w.event(EventWarning, is.reason, w.facts.message())
	default:
		w.event(EventNormal, ReasonOnline, "all properties are read")
	}
	return true
}

// lost doubts what was known of a device that is offline now.
func (w *worker) lost(was health, now time.Time) {
	w.forgetFaults()
	w.doubtAll(ReasonOffline, now)
	if is := w.facts.health; was.state != is.state {
		w.log.Warn("device offline", zap.String("reason", is.reason), zap.String("message", is.message))
		w.event(EventWarning, ReasonOffline, is.reason+": "+is.message)
		w.remember, w.workAt = true, now // when it was online last
	}
}

// doubtAll makes the values uncertain that are good.
func (w *worker) doubtAll(reason string, now time.Time) {
	for i := range w.facts.twins {
		w.facts.twins[i].doubt(reason, now)
	}
}

// returned has everything tried that waited for the device, and compared what may
// have been lost with a restart of it.
func (w *worker) returned(was health) {
	for p, c := range w.facts.wishes {
		if is := c.returned(); is != c && was.state == v1beta1.StateOffline {
			w.facts.wishes[p], w.remember = is, true
		}
	}
	w.workAt, w.calmUntil, w.retryWait = time.Now(), time.Time{}, writeRetry
}

// faults counts the properties that a device which answers cannot be read of.
func (w *worker) faults() int {
	n := 0
	for i := range w.facts.twins {
		if w.facts.twins[i].faulty {
			n++
		}
	}
	return n
}

// forgetFaults leaves out what failed because the whole device did, but not what the
// given readings say.
func (w *worker) forgetFaults(but ...Reading) {
	for i := range w.facts.twins {
		w.facts.twins[i].faulty = false
	}
	for _, r := range but {
		if r.Point >= 0 && r.Point < len(w.facts.twins) {
			w.facts.twins[r.Point].faulty = w.facts.twins[r.Point].quality == Bad
		}
	}
}

func (w *worker) setHealth(h health) {
	w.host.meters.move(w.facts.health.state, h.state)
	w.facts.health = h
}

// check does what time alone demands: values that were not read for long become
// uncertain, and a status that is old is repeated if there is a newer time to tell.
func (w *worker) check(now time.Time) {
	w.checkAt = time.Time{}
	for i := range w.facts.twins {
		t, p := &w.facts.twins[i], &w.facts.points[i]
		if t.quality != Good || p.Reporting.StaleAfter == 0 {
			continue
		}
		if at := t.seen.Add(p.Reporting.StaleAfter); now.Before(at) {
			w.checkBy(at)
		} else if t.doubt(ReasonOld, now) && p.Report {
			w.changed()
		}
	}
	every := w.def.repeatAfter()
	if w.dirty || w.toldAt.IsZero() || every == 0 {
		return
	}
	if at := w.toldAt.Add(every); now.Before(at) {
		w.checkBy(at)
	} else if w.facts.lastOnline.After(w.toldSeen) {
		w.changed()
	} else {
		w.checkBy(now.Add(every))
	}
}

func (w *worker) checkBy(t time.Time) {
	if w.checkAt.IsZero() || t.Before(w.checkAt) {
		w.checkAt = t
	}
}

// changed has the status written soon. Before the device has been tried there is
// nothing to tell: the last status stays.
func (w *worker) changed() {
	if w.facts.health.reason != ReasonConnecting || len(w.facts.problems) > 0 || len(w.facts.points) == 0 {
		w.dirty = true
	}
}

// hand gives the status writer, which is ready, what is known now.
func (w *worker) hand(now time.Time) {
	w.dirty = false
	for i := range w.facts.twins {
		w.facts.twins[i].tell()
	}
	w.toldAt, w.toldSeen = now, w.facts.lastOnline
	w.checkBy(now.Add(w.def.repeatAfter()))
	w.status.in <- w.facts.snapshot()
}
