package host

import (
	"context"
	"errors"
	"maps"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/internal/backoff"
	"github.com/petiole-io/petiole/devices/internal/desired"
	"github.com/petiole-io/petiole/devices/internal/stats"
	"github.com/petiole-io/petiole/devices/internal/twin"
	"github.com/petiole-io/petiole/devices/internal/wallclock"
)

// desiredWriter writes the desired values of one device, and compares them with the values
// that the device has.
type desiredWriter struct {
	facts    *twin.Device
	sessions *sessions
	saved    *savedDevice
	status   *statusReporter
	counters *stats.Counters
	records  recorder
	log      *zap.Logger

	current pendingWrite // the write of a desired value that runs, if any
	workAt  time.Time    // when to look at desired values; zero: not scheduled
	retryAt time.Time    // no write to an unreachable device before then
	backoff backoff.Backoff
	// clock detects that the wall clock was set.
	clock wallclock.Clock
	// until is Clock.Until.
	until func(time.Time) (time.Duration, bool)
}

// followClock moves what is due at a time of the wall clock after that was set.
func followClock(d *desiredWriter, now time.Time) {
	by := d.clock.Stepped(now)
	if by == 0 {
		return
	}
	for p, c := range d.facts.Desired {
		d.facts.Desired[p] = c.Shift(by)
	}
	d.log.Info("the clock was set; what is due was moved", zap.Duration("ahead", by))
	d.schedule(now)
}

// timeLeft returns the time until a desired value expires, and whether it does. It is over, too, while the
// clock says nothing: the value is not written then, and has not expired.
func timeLeft(d *desiredWriter, c desired.State) (left time.Duration, expires, known bool) {
	if c.Expires == 0 {
		return 0, false, true
	}
	left, known = d.until(time.UnixMilli(c.Expires))
	return left, true, known
}

// pendingWrite is the write of desired values that runs: of one, or of those of a group.
type pendingWrite struct {
	values map[string]desired.State
	began  time.Time
	// cancel keeps the driver from beginning it; withdrawn reports that it was called.
	cancel    context.CancelFunc
	withdrawn bool
}

// isFor reports whether it writes this desired value of a property.
func (a *pendingWrite) isFor(property string, c desired.State) bool {
	w, ok := a.values[property]
	return ok && w.SameAs(c)
}

// apply takes over the desired values of a target.
func (d *desiredWriter) apply(values []devices.Desired, version string) {
	before := d.facts.Desired
	now, superseded := desired.Merge(values, version, d.facts.Definition.Digest(), before)
	for p, c := range superseded {
		if d.current.isFor(p, c) {
			continue // audited when its result is known
		}
		c.Ack = devices.Superseded
		d.counters.CountWrite(c.Ack)
		d.audit(p, c, devices.Outcome{})
	}
	if maps.Equal(now, before) {
		return
	}
	d.facts.Desired = now
	d.saved.changed = true
	d.withdraw()
	d.reset()
	for _, p := range sortedKeys(now) {
		if c := now[p]; c.Digest != before[p].Digest && c.Ack == devices.Rejected { // because of its metadata
			d.reportOutcome(p, c, devices.Outcome{})
		}
	}
	for i, p := range d.facts.Definition.Points { // an observed value may be known already
		if t := d.facts.Twins[i]; t.Quality == devices.Good && now[p.Name].Policy == devices.DriftObserve {
			d.compare(i, time.Now())
		}
	}
}

// withdraw keeps the running write from beginning if its value is no longer desired. A write
// that has begun goes on.
func (d *desiredWriter) withdraw() {
	u := &d.current
	for property, w := range u.values {
		c, ok := d.facts.Desired[property]
		_, waits := c.Waits()
		if settled := c.Ack != devices.Pending && c.Policy != devices.DriftObserve; !ok || !c.SameAs(w) || !waits && !settled {
			u.withdrawn = true
			u.cancel()
			return
		}
	}
}

// isDue reports whether advance should be called.
func (d *desiredWriter) isDue(now time.Time) bool { return !d.workAt.IsZero() && !now.Before(d.workAt) }

// advance starts the next write that is due, and reports whether it started one. The state
// must be saved.
func (d *desiredWriter) advance(ctx context.Context, now time.Time) (started bool) {
	d.workAt = time.Time{}
	for _, property := range waitingProperties(d.facts) {
		if d.tryWrite(ctx, property, now) {
			return true
		}
	}
	return false
}

// schedule has the desired values looked at no later than t.
func (d *desiredWriter) schedule(t time.Time) {
	if d.workAt.IsZero() || t.Before(d.workAt) {
		d.workAt = t
	}
}

// retry has the desired values looked at now, also those that wait for an unreachable device.
func (d *desiredWriter) retry() {
	d.schedule(time.Now())
	d.retryAt = time.Time{}
}

// reset is retry, and ends the pauses between attempts to write to an unreachable device.
func (d *desiredWriter) reset() {
	d.retry()
	d.backoff.Reset()
}

// postpone schedules the next attempt after the state could not be saved.
func (d *desiredWriter) postpone(err error) {
	d.log.Warn("save state of device, desired values wait", zap.Error(err))
	d.backOff()
	d.workAt = d.retryAt
}

// tryWrite starts the write of a desired value if it is due, or schedules it. It reports
// whether it started one.
func (d *desiredWriter) tryWrite(ctx context.Context, property string, now time.Time) (started bool) {
	c := d.facts.Desired[property]
	left, expires, known := timeLeft(d, c)
	switch {
	case expires && left <= 0 && !known:
		d.schedule(now.Add(unknownTimePoll))
		return false
	case expires && left <= 0:
		if c.Ack == devices.Pending || c.Ack == devices.Drifted && c.Reason != devices.ReasonEnforceEnded {
			d.expire(property, c)
		}
		return false
	case expires:
		d.schedule(now.Add(left))
	}
	since, waits := c.Waits()
	i := pointOf(d.facts, property)
	if !waits || i < 0 || d.sessions.running == nil || d.saved.fenced {
		return false // it waits for a reading or another definition
	}
	if since = latest(since, d.retryAt); now.Before(since) {
		d.schedule(since)
		return false
	}
	if waitsForOthers(d.facts, property) {
		return false
	}
	if p := d.facts.Definition.Points[i]; p.Group != "" {
		if w, ok := d.sessions.running.session.(devices.GroupWriter); ok {
			return d.tryGroup(ctx, w, p.Group, now)
		}
	}
	if r := d.facts.Definition.Points[i].Validate(c.Value); r != nil {
		d.finish(property, c, devices.Outcome{}, r, now)
		return false
	}
	cancel := d.sessions.write(ctx, i, c.Value, limitOf(d, c, now, now.Add(writeLimit)), writeResult{property: property, desired: c})
	d.current = pendingWrite{values: map[string]desired.State{property: c}, began: now, cancel: cancel}
	return true
}

// limitOf returns when a write must begin at the latest: at limit, or before the value expires.
func limitOf(d *desiredWriter, c desired.State, now, limit time.Time) time.Time {
	if left, expires, _ := timeLeft(d, c); expires && now.Add(left).Before(limit) {
		return now.Add(left)
	}
	return limit
}

// tryGroup starts the write of all desired values of a group, of which one is due. If one of
// them is not valid none is written. It reports whether it started a write.
func (d *desiredWriter) tryGroup(ctx context.Context, w devices.GroupWriter, group string, now time.Time) (started bool) {
	write := pendingWrite{values: map[string]desired.State{}, began: now}
	limit, always, invalid := now.Add(writeLimit), false, ""
	var values []devices.PointValue
	var parts []writeResult
	for i, p := range d.facts.Definition.Points {
		c, ok := d.facts.Desired[p.Name]
		if !ok || p.Group != group || c.Policy == devices.DriftObserve {
			continue
		}
		if left, expires, _ := timeLeft(d, c); expires && left <= 0 {
			continue
		}
		if r := p.Validate(c.Value); r != nil && c.Ack != devices.Rejected {
			d.finish(p.Name, c, devices.Outcome{}, r, now)
			c = d.facts.Desired[p.Name]
		}
		if c.Ack == devices.Rejected && !c.RefusedByDevice() {
			invalid = p.Name
		}
		limit, always = limitOf(d, c, now, limit), always || c.Rewrite > 0
		values = append(values, devices.PointValue{Point: i, Value: c.Value})
		parts = append(parts, writeResult{property: p.Name, desired: c})
		write.values[p.Name] = c
	}
	if invalid != "" {
		for p, c := range write.values {
			if c.Ack == devices.Pending && c.Reason != devices.ReasonGroup {
				c.Reason, c.Message = devices.ReasonGroup, "not written, because the value of "+invalid+" of the same group is not valid"
				d.facts.Desired[p] = c
				d.status.changed()
			}
		}
		return false
	}
	write.cancel = d.sessions.writeGroup(ctx, w, values, always, limit, parts)
	d.current = write
	return true
}

// expiredSuffix ends the message of a drifted value that is no longer enforced because it has expired.
const expiredSuffix = "; expiresAt has passed"

// expire concludes a desired value whose expiresAt has passed.
func (d *desiredWriter) expire(property string, c desired.State) {
	if c.Ack == devices.Drifted {
		c.Reason = devices.ReasonEnforceEnded
		if !strings.HasSuffix(c.Message, expiredSuffix) {
			c.Message += expiredSuffix
		}
	} else {
		c.Ack, c.Reason, c.Message = devices.Expired, devices.ReasonDeadline, "not written before "+time.UnixMilli(c.Expires).UTC().Format(time.RFC3339)
	}
	c.Time = time.Now().UnixMilli()
	d.facts.Desired[property] = c
	d.saved.changed = true
	d.reportOutcome(property, c, devices.Outcome{})
}

func latest(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// written handles the result of a write. Replaced reports whether the session was replaced or
// stopped meanwhile.
func (d *desiredWriter) written(r writeResult, replaced bool) {
	write := d.current
	d.current = pendingWrite{}
	d.schedule(time.Now())
	if r.group == nil {
		d.conclude(r, replaced, write)
	}
	for _, part := range r.group {
		d.conclude(part, replaced, write)
	}
}

// conclude handles the result of one value.
func (d *desiredWriter) conclude(r writeResult, replaced bool, write pendingWrite) {
	now, ok := d.facts.Desired[r.property]
	switch {
	case !ok || !now.SameAs(r.desired):
		// Another value or none is desired by now. The write is audited nevertheless.
		c := r.desired
		c.Ack = devices.Superseded
		if r.outcome.Written && r.err != nil {
			c.Message = r.err.Error()
		}
		d.counters.CountWrite(c.Ack)
		d.audit(r.property, c, r.outcome)
		return
	case r.err != nil && replaced:
		// Interrupted by a change of the definition, or by the stop: it is tried again.
		if r.outcome.Written {
			c := now
			c.Reason, c.Message = devices.ReasonInterrupted, r.err.Error()
			d.audit(r.property, c, r.outcome)
		}
		return
	case write.withdrawn && !r.outcome.Written && unreachable(r.err):
		return // withdrawn before it began
	case errors.Is(r.err, devices.ErrNotWritten):
		return // tryGroup tells why, once the other one is concluded
	case unreachable(r.err):
		known := now.Reason == devices.ReasonOffline
		if now.Rewrites() { // it is no longer known to be in force
			now.Ack, now.Due = devices.Pending, 0
			d.saved.changed = true
		}
		now.Reason, now.Message, now.Time = devices.ReasonOffline, r.err.Error(), time.Now().UnixMilli()
		d.facts.Desired[r.property] = now
		if !known || r.outcome.Written {
			d.audit(r.property, now, r.outcome)
			d.status.changed()
		}
		d.backOff()
		return
	}
	d.finish(r.property, now, r.outcome, r.err, write.began)
}

// returned schedules the writes that waited for the device, which responds again. If it was
// offline, values are compared again, since it may have lost them in a restart.
func (d *desiredWriter) returned(offline bool) {
	for p, c := range d.facts.Desired {
		if is := c.AfterReturn(); is != c && offline {
			d.facts.Desired[p] = is
			d.saved.changed = true
		}
	}
	d.reset()
}

// finish concludes a desired value with the result of its write, which began at a time.
func (d *desiredWriter) finish(property string, c desired.State, o devices.Outcome, err error, began time.Time) {
	was := c
	var rejection *devices.Rejection
	switch {
	case err == nil:
		c.Ack, c.Reason, c.Message = devices.Applied, "", ""
		if c.Enforced > 0 {
			c.Reason = devices.ReasonEnforced
		}
	case errors.As(err, &rejection):
		c.Ack, c.Reason, c.Message = devices.Rejected, rejection.Reason, rejection.Message
	default:
		c.Ack, c.Reason, c.Message = devices.Failed, devices.ReasonFailure, err.Error()
	}
	c.Actual, c.Due = o.After, 0
	c.Time, c.Basis = time.Now().UnixMilli(), d.facts.Definition.Digest()
	if c.Rewrites() {
		c.Due = began.Add(time.Duration(c.Rewrite) * time.Millisecond).UnixMilli()
	}
	d.facts.Desired[property] = c
	d.retryAt = time.Time{}
	d.backoff.Reset()
	if (was.Rewrites() || was.Ack == devices.Applied) && was.Ack == c.Ack && was.Reason == c.Reason && was.Message == c.Message {
		// Written once more with the same result: that needs no save, as a restart writes it again.
		d.audit(property, c, o)
		return
	}
	d.saved.changed = true
	d.reportOutcome(property, c, o)
	if c.Ack == devices.Applied && o.Written {
		d.retryRefused(property)
	}
}

// retryRefused has the values written once more that the device refused, after another property
// was written: it may accept them now, as those that need a mode or an unlocked register.
func (d *desiredWriter) retryRefused(but string) {
	for p, c := range d.facts.Desired {
		if p == but || !c.RefusedByDevice() {
			continue
		}
		c.Ack, c.Reason, c.Message, c.Due = devices.Pending, "", "", 0
		d.facts.Desired[p] = c
		d.schedule(time.Now())
	}
}

// reportOutcome reports a concluded desired value as audit, event and log message.
func (d *desiredWriter) reportOutcome(property string, c desired.State, o devices.Outcome) {
	d.counters.CountWrite(c.Ack)
	d.audit(property, c, o)
	message := property + " = " + c.Value
	if c.Message != "" {
		message += ": " + c.Message
	}
	d.log.Info("desired value concluded", zap.String("property", property), zap.String("ack", string(c.Ack)),
		zap.String("version", c.Version), zap.String("reason", c.Reason), zap.Bool("written", o.Written))
	typ, reason := devices.EventWarning, "DesiredFailed"
	switch c.Ack {
	case devices.Applied:
		typ, reason = devices.EventNormal, "DesiredApplied"
	case devices.Rejected:
		reason = "DesiredRejected"
	case devices.Expired:
		reason = "DesiredExpired"
	case devices.Drifted:
		reason = "DesiredDrifted"
	}
	d.records.Event(typ, reason, message)
	d.status.changed()
}

// backOff schedules the next attempt to write to an unreachable device.
func (d *desiredWriter) backOff() {
	d.retryAt = time.Now().Add(d.backoff.Next())
}

// compare compares the good value of a point with its desired value, and reports whether the
// ack changed.
func (d *desiredWriter) compare(point int, now time.Time) bool {
	p, t := d.facts.Definition.Points[point], &d.facts.Twins[point]
	c, ok := d.facts.Desired[p.Name]
	if _, writing := d.current.values[p.Name]; !ok || writing {
		return false
	}
	is, changed := c.Compare(p.Type, t.Text, t.Time, now)
	if !changed {
		return false
	}
	d.facts.Desired[p.Name] = is
	d.saved.changed = true
	d.schedule(now)
	if is.Ack == devices.Drifted && c.Ack != devices.Drifted {
		d.counters.CountWrite(devices.Drifted)
		d.records.Event(devices.EventWarning, "DesiredDrifted", p.Name+": desired "+c.Value+", "+is.Message)
	}
	if is.Reason == devices.ReasonEnforceEnded {
		d.audit(p.Name, is, devices.Outcome{})
	}
	return true
}

func (d *desiredWriter) audit(property string, c desired.State, o devices.Outcome) {
	d.records.Audit(&devices.Audit{
		Property: property, Version: c.Version, Value: c.Value, Before: o.Before, After: o.After, Written: o.Written, Sent: o.Sent,
		Ack: c.Ack, Reason: c.Reason, Message: c.Message,
	})
}
