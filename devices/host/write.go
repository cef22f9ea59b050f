package host

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sort"
	"time"

	"github.com/petiole-io/petiole/devices"
	"go.uber.org/zap"
)

// writeResult is the result of a write.
type writeResult struct {
	session  uint64
	property string
	// desired is the desired value that was written; execution is set for a command's write.
	desired   desiredState
	execution *execution
	outcome   devices.Outcome
	err       error
}

// pendingWrite is the write of a desired value that runs.
type pendingWrite struct {
	property string
	desired  desiredState
	// cancel keeps the driver from beginning it; withdrawn reports that it was called.
	cancel    context.CancelFunc
	withdrawn bool
}

// isFor reports whether it writes this desired value of a property.
func (a *pendingWrite) isFor(property string, c desiredState) bool {
	return a.property == property && a.desired.sameAs(c)
}

// applyDesired takes over the desired values of a target.
func (w *worker) applyDesired(desired []devices.Desired, version string) {
	before := w.facts.desired
	now, superseded := mergeDesired(desired, version, w.def.Digest(), before)
	for p, c := range superseded {
		if w.current.isFor(p, c) {
			continue // audited when its result is known
		}
		c.Ack = devices.Superseded
		w.host.counters.CountWrite(c.Ack)
		w.audit(p, c, devices.Outcome{})
	}
	if maps.Equal(now, before) {
		return
	}
	w.facts.desired, w.needsSave = now, true
	w.withdraw()
	w.workAt, w.retryAt = time.Now(), time.Time{}
	w.writeBackoff.Reset()
	for _, p := range sortedKeys(now) {
		if c := now[p]; c.Digest != before[p].Digest && c.Ack == devices.Rejected { // because of its metadata
			w.reportOutcome(p, c, devices.Outcome{})
		}
	}
	for i, p := range w.facts.points { // an observed value may be known already
		if t := w.facts.twins[i]; t.quality == devices.Good && now[p.Name].Policy == devices.DriftObserve {
			w.compare(i, time.Now())
		}
	}
}

// withdraw keeps the running write from beginning if its value is no longer desired. A write
// that has begun goes on.
func (w *worker) withdraw() {
	u := &w.current
	if u.property == "" {
		return
	}
	c, ok := w.facts.desired[u.property]
	if _, waits := c.due(); ok && waits && c.sameAs(u.desired) {
		return
	}
	u.withdrawn = true
	u.cancel()
}

// work starts the next write that is due: that of a command or, after saving the state, of a
// desired value. At most one write runs at a time, outside of the worker's goroutine.
func (w *worker) work(ctx context.Context) {
	w.commands.expire(time.Now(), w.loaded)
	if w.writing {
		return
	}
	// While there is a target, the newest definition has not been reconciled yet.
	if w.loaded && w.target == nil && w.commands.advance(ctx) {
		return
	}
	now := time.Now()
	if !w.loaded || w.workAt.IsZero() || now.Before(w.workAt) {
		return
	}
	if w.needsSave {
		// Save before the write, so that a restart finds that it may have happened.
		if err := w.save(ctx); err != nil {
			w.backOff()
			w.workAt = w.retryAt
			w.log.Warn("save state of device, desired values wait", zap.Error(err))
			return
		}
	}
	w.workAt = time.Time{}
	for _, property := range w.waitingProperties() {
		if w.tryWrite(ctx, property, now) {
			return
		}
	}
	if w.needsSave {
		w.workAt = now // a value was concluded without a write
	}
}

// waitingProperties returns the properties whose desired values wait to be written. Those
// that were tried come last.
func (w *worker) waitingProperties() []string {
	var names []string
	for p, c := range w.facts.desired {
		if _, waits := c.due(); waits || c.Ack == devices.Pending {
			names = append(names, p)
		}
	}
	sort.Strings(names)
	slices.SortStableFunc(names, func(a, b string) int { return int(w.facts.desired[a].Time - w.facts.desired[b].Time) })
	return names
}

// tryWrite starts the write of a desired value if it is due, or schedules it. It reports
// whether it started one.
func (w *worker) tryWrite(ctx context.Context, property string, now time.Time) (started bool) {
	c := w.facts.desired[property]
	if c.expired(now) {
		w.expire(property, c)
		return false
	}
	if c.Expires != 0 {
		w.scheduleWork(time.UnixMilli(c.Expires))
	}
	since, waits := c.due()
	i := w.point(property)
	if !waits || i < 0 || w.session == nil || w.fenced {
		return false // it waits for a reading or another definition
	}
	if since = latest(since, w.retryAt); now.Before(since) {
		w.scheduleWork(since)
		return false
	}
	if r := w.def.Points[i].Validate(c.Value); r != nil {
		w.finish(property, c, devices.Outcome{}, r)
		return false
	}
	limit := now.Add(writeLimit)
	if c.Expires != 0 && time.UnixMilli(c.Expires).Before(limit) {
		limit = time.UnixMilli(c.Expires)
	}
	cancel := w.write(ctx, i, c.Value, limit, writeResult{property: property, desired: c})
	w.current = pendingWrite{property: property, desired: c, cancel: cancel}
	return true
}

// expire concludes a desired value whose expiresAt has passed.
func (w *worker) expire(property string, c desiredState) {
	if c.Ack == devices.Drifted {
		c.Reason = devices.ReasonEnforceEnded
	} else {
		c.Ack, c.Reason, c.Message = devices.Expired, devices.ReasonDeadline, "not written before "+time.UnixMilli(c.Expires).UTC().Format(time.RFC3339)
	}
	c.Time = time.Now().UnixMilli()
	w.facts.desired[property], w.needsSave = c, true
	w.reportOutcome(property, c, devices.Outcome{})
}

func (w *worker) scheduleWork(t time.Time) {
	if w.workAt.IsZero() || t.Before(w.workAt) {
		w.workAt = t
	}
}

func latest(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

func (w *worker) point(property string) int {
	return slices.IndexFunc(w.def.Points, func(p devices.Point) bool { return p.Name == property })
}

// write starts a write by the session, which ends at limit. The result goes to
// w.writeResults. The returned function keeps the write from beginning.
func (w *worker) write(ctx context.Context, point int, value string, limit time.Time, job writeResult) context.CancelFunc {
	w.writing = true
	r := w.session
	job.session = r.number
	wctx, cancel := context.WithDeadline(ctx, limit)
	go func() {
		// The end of the session ends the write, too.
		defer cancel()
		go func() {
			select {
			case <-r.done:
				cancel()
			case <-wctx.Done():
			}
		}()
		write := r.session.Write
		if job.execution != nil {
			write = r.session.Command
		}
		job.outcome, job.err = write(wctx, point, value)
		w.writeResults <- job
	}()
	return cancel
}

// handleWriteResult handles the result of a write.
func (w *worker) handleWriteResult(ctx context.Context, r writeResult) {
	w.writing = false
	if r.execution != nil {
		w.commands.written(r, w.sessionReplaced(ctx, r))
		w.changed()
		return
	}
	unwanted := w.current.withdrawn
	w.current = pendingWrite{}
	w.scheduleWork(time.Now())
	now, ok := w.facts.desired[r.property]
	switch {
	case !ok || !now.sameAs(r.desired):
		// Another value or none is desired by now. The write is audited nevertheless.
		c := r.desired
		c.Ack = devices.Superseded
		if r.outcome.Written && r.err != nil {
			c.Message = r.err.Error()
		}
		w.host.counters.CountWrite(c.Ack)
		w.audit(r.property, c, r.outcome)
		return
	case r.err != nil && w.sessionReplaced(ctx, r):
		// Interrupted by a change of the definition, or by the stop: it is tried again.
		if r.outcome.Written {
			c := now
			c.Reason, c.Message = devices.ReasonInterrupted, r.err.Error()
			w.audit(r.property, c, r.outcome)
		}
		return
	case unwanted && !r.outcome.Written && unreachable(r.err):
		return // withdrawn before it began
	case unreachable(r.err):
		known := now.Reason == devices.ReasonOffline
		now.Reason, now.Message, now.Time = devices.ReasonOffline, r.err.Error(), time.Now().UnixMilli()
		w.facts.desired[r.property] = now
		if !known || r.outcome.Written {
			w.audit(r.property, now, r.outcome)
			w.changed()
		}
		w.backOff()
		return
	}
	w.finish(r.property, now, r.outcome, r.err)
}

// unreachable reports whether a retry may help after an error.
func unreachable(err error) bool {
	return errors.Is(err, devices.ErrUnreachable) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

// sessionReplaced reports whether the session of a write was replaced or stopped.
func (w *worker) sessionReplaced(ctx context.Context, r writeResult) bool {
	return ctx.Err() != nil || w.session == nil || w.session.number != r.session
}

// finish concludes a desired value with the result of its write.
func (w *worker) finish(property string, c desiredState, o devices.Outcome, err error) {
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
	c.Time, c.Basis = time.Now().UnixMilli(), w.def.Digest()
	w.facts.desired[property], w.needsSave = c, true
	w.retryAt = time.Time{}
	w.writeBackoff.Reset()
	w.reportOutcome(property, c, o)
}

// reportOutcome reports a concluded desired value as audit, event and log message.
func (w *worker) reportOutcome(property string, c desiredState, o devices.Outcome) {
	w.host.counters.CountWrite(c.Ack)
	w.audit(property, c, o)
	message := property + " = " + c.Value
	if c.Message != "" {
		message += ": " + c.Message
	}
	w.log.Info("desired value concluded", zap.String("property", property), zap.String("ack", string(c.Ack)),
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
	w.records.Event(typ, reason, message)
	w.changed()
}

// backOff schedules the next attempt to write to an unreachable device.
func (w *worker) backOff() {
	w.retryAt = time.Now().Add(w.writeBackoff.Next())
}

// compare compares the good value of a point with its desired value, and reports whether the
// ack changed.
func (w *worker) compare(point int, now time.Time) bool {
	p, t := w.def.Points[point], &w.facts.twins[point]
	c, ok := w.facts.desired[p.Name]
	if !ok || w.current.property == p.Name {
		return false
	}
	is, changed := c.compare(p.Type, t.text, t.time, now)
	if !changed {
		return false
	}
	w.facts.desired[p.Name], w.needsSave = is, true
	w.workAt = now
	if is.Ack == devices.Drifted && c.Ack != devices.Drifted {
		w.host.counters.CountWrite(devices.Drifted)
		w.records.Event(devices.EventWarning, "DesiredDrifted", p.Name+": desired "+c.Value+", "+is.Message)
	}
	if is.Reason == devices.ReasonEnforceEnded {
		w.audit(p.Name, is, devices.Outcome{})
	}
	return true
}

func (w *worker) audit(property string, c desiredState, o devices.Outcome) {
	w.records.Audit(&devices.Audit{
		Property: property, Version: c.Version, Value: c.Value, Before: o.Before, After: o.After, Written: o.Written, Sent: o.Sent,
		Ack: c.Ack, Reason: c.Reason, Message: c.Message,
	})
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
