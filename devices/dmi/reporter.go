package dmi

import (
	"context"
	"time"

	"github.com/petiole-io/petiole/devices"
)

// reporter delivers the reports of a mapper about a device, in order, and the device's
// reachability.
type reporter struct {
	session *session
	deliver func(devices.Batch)
	// trouble is the last reported reason why the device is unreachable.
	trouble string
	// stateReport is the last state that the mapper reported.
	stateReport stateReport
	// lost is when all values were last reported bad.
	lost time.Time
}

// run delivers until ctx ends.
func (t *reporter) run(ctx context.Context) {
	x := t.session
	tick := time.NewTicker(x.server.timing.silence / 4)
	defer tick.Stop()
	t.checkMapper()
	for {
		select {
		case <-ctx.Done():
			return
		case r := <-x.reports:
			t.report(r)
		case <-x.health:
			t.checkMapper()
		case <-tick.C:
			t.checkSilence(time.Now())
		}
	}
}

// checkMapper reports the device as unreachable if its mapper is.
func (t *reporter) checkMapper() {
	reason, message := t.session.unreachableReason()
	if reason == t.trouble {
		return
	}
	t.trouble = reason
	if reason != "" {
		t.stateReport = stateReport{} // the state that the mapper reported no longer applies
		t.reportUnreachable(reason, message, time.Now())
	}
}

// report delivers a report of the mapper. Values do not make an unreachable device reachable.
func (t *reporter) report(r report) {
	r.at = time.Now()
	for i := range r.readings {
		at := &r.readings[i].Time
		switch {
		case at.IsZero():
			*at = r.at
		case at.Before(t.lost) && t.trouble == "": // the mapper has returned and has no newer reading yet
			*at = t.lost
		}
	}
	if r.state != "" {
		t.reportState(r)
		return
	}
	t.session.recordReport(r)
	if len(r.readings) == 0 {
		return
	}
	b := t.stateReport.batch(r.at)
	if t.trouble != "" {
		b.Reachable, b.Degraded, b.Reason = false, false, t.trouble
	}
	b.Readings = r.readings
	t.deliver(b)
}

func (t *reporter) reportState(r report) {
	c := stateReportOf(r.state)
	if t.trouble != "" {
		return
	}
	was := t.stateReport
	t.stateReport = c
	switch {
	case !c.unreachable:
		t.deliver(c.batch(r.at))
	case c != was:
		t.reportUnreachable(c.reason, c.message, r.at)
	}
}

// reportUnreachable reports that the device is unreachable and all its values are bad.
func (t *reporter) reportUnreachable(reason, message string, at time.Time) {
	t.lost = at
	b := devices.Batch{Reason: reason, Message: message, Time: at}
	for i := range t.session.points {
		b.Readings = append(b.Readings, devices.Reading{Point: i, Quality: devices.Bad, Reason: reason, Time: at})
	}
	t.deliver(b)
}

// checkSilence makes a device unreachable whose reports have stopped. KubeEdge's mappers
// report every value that they can read, changed or not, and nothing for one that they
// cannot.
func (t *reporter) checkSilence(now time.Time) {
	if t.trouble == "" && !t.stateReport.unreachable && t.session.silent(now) {
		t.stateReport = stateReport{}
		t.reportUnreachable(ReasonSilent, "the mapper no longer reports any value of the device", now)
	}
}

// silent reports, once, that the reports of a device have stopped. It returns false for a
// device with a value that the mapper reports only after changes.
func (x *session) silent(now time.Time) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	heard := false
	for i := range x.lastReports {
		s := &x.lastReports[i]
		if s.at.IsZero() {
			continue
		}
		heard = true
		if !s.repeats || now.Sub(s.at) <= max(5*x.points[i].Cycle, x.server.timing.silence) {
			return false
		}
	}
	if !heard {
		return false
	}
	for i := range x.lastReports {
		x.lastReports[i] = lastReport{}
	}
	return true
}
