package dmi

import (
	"context"
	"time"

	"github.com/petiole-io/petiole/devices"
)

// teller delivers what is known of a device, in the order in which it became known.
type teller struct {
	session *session
	deliver func(devices.Batch)
	// trouble is the reason for which the device was last told to be unreachable.
	trouble string
	// claimed is what the mapper says of the device.
	claimed claim
	// lost is when all values were last told to be bad.
	lost time.Time
}

// run delivers until ctx ends.
func (t *teller) run(ctx context.Context) {
	x := t.session
	tick := time.NewTicker(x.server.timing.silence / 4)
	defer tick.Stop()
	t.look()
	for {
		select {
		case <-ctx.Done():
			return
		case r := <-x.reports:
			t.take(r)
		case <-x.health:
			t.look()
		case <-tick.C:
			t.listen(time.Now())
		}
	}
}

// look tells what keeps the device from being operated.
func (t *teller) look() {
	reason, message := t.session.trouble()
	if reason == t.trouble {
		return
	}
	t.trouble = reason
	if reason != "" {
		t.claimed = claim{} // what the mapper said of the device is void
		t.lose(reason, message, time.Now())
	}
}

// take delivers a report. While a device is unreachable its values do not make it
// reachable.
func (t *teller) take(r report) {
	r.at = time.Now()
	for i := range r.readings {
		at := &r.readings[i].Time
		switch {
		case at.IsZero():
			*at = r.at
		case at.Before(t.lost) && t.trouble == "": // a mapper that is back has nothing newer yet
			*at = t.lost
		}
	}
	if r.state != "" {
		t.state(r)
		return
	}
	t.session.see(r)
	if len(r.readings) == 0 {
		return
	}
	b := t.claimed.batch(r.at)
	if t.trouble != "" {
		b.Reachable, b.Degraded, b.Reason = false, false, t.trouble
	}
	b.Readings = r.readings
	t.deliver(b)
}

func (t *teller) state(r report) {
	c := claimOf(r.state)
	if t.trouble != "" {
		return
	}
	was := t.claimed
	t.claimed = c
	switch {
	case !c.away:
		t.deliver(c.batch(r.at))
	case c != was:
		t.lose(c.reason, c.message, r.at)
	}
}

// lose tells that the device is unreachable and no value is good any more.
func (t *teller) lose(reason, message string, at time.Time) {
	t.lost = at
	b := devices.Batch{Reason: reason, Message: message, Time: at}
	for i := range t.session.points {
		b.Readings = append(b.Readings, devices.Reading{Point: i, Quality: devices.Bad, Reason: reason, Time: at})
	}
	t.deliver(b)
}

// listen makes a device unreachable of which nothing is reported any more. KubeEdge's
// mappers report a value that they can read, changed or not, and are silent about one
// that they cannot.
func (t *teller) listen(now time.Time) {
	if t.trouble == "" && !t.claimed.away && t.session.silent(now) {
		t.claimed = claim{}
		t.lose(ReasonSilent, "the mapper reports nothing of the device any more", now)
	}
}

// silent tells, once, that nothing is reported any more of a device. One of which the
// mapper reports a value only when it changes is never silent.
func (x *session) silent(now time.Time) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	heard := false
	for i := range x.seen {
		s := &x.seen[i]
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
	for i := range x.seen {
		x.seen[i] = sighting{}
	}
	return true
}
