package devices

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sort"
	"time"

	"go.uber.org/zap"
)

// written is the end of a write.
type written struct {
	session  uint64
	property string
	// wish is the desired value that was written; execution is the command that wrote,
	// if it was one.
	wish      wish
	execution *execution
	outcome   Outcome
	err       error
}

// attempt is a write of a desired value, from when the driver has it to its end.
type attempt struct {
	property string
	wish     wish
	// cancel keeps the driver from beginning it; unwanted tells that it was called.
	cancel   context.CancelFunc
	unwanted bool
}

// of tells whether it is that of a property's desired value.
func (a *attempt) of(property string, c wish) bool { return a.property == property && a.wish.is(c) }

// want takes the desired values of a target over.
func (w *worker) want(desired []Desired, version string) {
	before := w.facts.wishes
	now, superseded := next(desired, version, w.def.mark(), before)
	for p, c := range superseded {
		if w.underway.of(p, c) {
			continue // told when its end is known
		}
		c.Ack = Superseded
		w.host.meters.wrote(c.Ack)
		w.audit(p, c, Outcome{})
	}
	if maps.Equal(now, before) {
		return
	}
	w.facts.wishes, w.remember = now, true
	w.withdraw()
	w.workAt, w.calmUntil, w.retryWait = time.Now(), time.Time{}, writeRetry
	for _, p := range sortedKeys(now) {
		if c := now[p]; c.Mark != before[p].Mark && c.Ack == Rejected { // because of its metadata
			w.conclude(p, c, Outcome{})
		}
	}
	for i, p := range w.facts.points { // what is only observed may be known already
		if t := w.facts.twins[i]; t.quality == Good && now[p.Name].Policy == DriftObserve {
			w.compare(i, time.Now())
		}
	}
}

// withdraw keeps the write under way from beginning when its value is no longer to be
// written. One that has begun goes on.
func (w *worker) withdraw() {
	u := &w.underway
	if u.property == "" {
		return
	}
	c, ok := w.facts.wishes[u.property]
	if _, waits := c.due(); ok && waits && c.is(u.wish) {
		return
	}
	u.unwanted = true
	u.cancel()
}

// work starts the next thing that is due: a command, else saving the memory and then
// the write of a desired value. At most one write runs at a time, outside of the
// worker's goroutine.
func (w *worker) work(ctx context.Context) {
	w.expireCommands(time.Now())
	if w.writing || w.command(ctx) {
		return
	}
	now := time.Now()
	if !w.loaded || w.workAt.IsZero() || now.Before(w.workAt) {
		return
	}
	if w.remember {
		// Before anything is written: a restart must find that it may have been.
		if err := w.save(ctx); err != nil {
			w.later()
			w.workAt = w.calmUntil
			w.log.Warn("state not saved, writes wait", zap.Error(err))
			return
		}
	}
	w.workAt = time.Time{}
	for _, property := range w.waitingWishes() {
		if w.try(ctx, property, now) {
			return
		}
	}
	if w.remember {
		w.workAt = now // something was settled without a write
	}
}

// waitingWishes are the properties whose desired values wait to be written. One that
// was tried goes behind those that were not.
func (w *worker) waitingWishes() []string {
	var names []string
	for p, c := range w.facts.wishes {
		if _, waits := c.due(); waits || c.Ack == Pending {
			names = append(names, p)
		}
	}
	sort.Strings(names)
	slices.SortStableFunc(names, func(a, b string) int { return int(w.facts.wishes[a].Time - w.facts.wishes[b].Time) })
	return names
}

// try starts the write of a desired value, or says when that is to be tried again.
func (w *worker) try(ctx context.Context, property string, now time.Time) (started bool) {
	c := w.facts.wishes[property]
	if c.expired(now) {
		w.expire(property, c)
		return false
	}
	if c.Expires != 0 {
		w.workBy(time.UnixMilli(c.Expires))
	}
	since, waits := c.due()
	i := w.point(property)
	if !waits || i < 0 || w.session == nil || w.fenced {
		return false // what it waits for is a reading or another definition
	}
	if since = later(since, w.calmUntil); now.Before(since) {
		w.workBy(since)
		return false
	}
	if r := check(w.def.Points[i], c.Value); r != nil {
		w.finish(property, c, Outcome{}, r)
		return false
	}
	limit := now.Add(writeLimit)
	if c.Expires != 0 && time.UnixMilli(c.Expires).Before(limit) {
		limit = time.UnixMilli(c.Expires)
	}
	cancel := w.write(ctx, i, c.Value, limit, written{property: property, wish: c})
	w.underway = attempt{property: property, wish: c, cancel: cancel}
	return true
}

// expire settles a desired value whose time is over.
func (w *worker) expire(property string, c wish) {
	if c.Ack == Drifted {
		c.Reason = ReasonEnforceEnded
	} else {
		c.Ack, c.Reason, c.Message = Expired, ReasonDeadline, "not written before "+time.UnixMilli(c.Expires).UTC().Format(time.RFC3339)
	}
	c.Time = time.Now().UnixMilli()
	w.facts.wishes[property], w.remember = c, true
	w.conclude(property, c, Outcome{})
}

func (w *worker) workBy(t time.Time) {
	if w.workAt.IsZero() || t.Before(w.workAt) {
		w.workAt = t
	}
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

func (w *worker) point(property string) int {
	return slices.IndexFunc(w.def.Points, func(p Point) bool { return p.Name == property })
}

// write has the session write a value before the limit, unless it is cancelled before it
// began. What comes of it arrives in w.writes.
func (w *worker) write(ctx context.Context, point int, value string, limit time.Time, job written) context.CancelFunc {
	w.writing = true
	r := w.session
	job.session = r.number
	wctx, cancel := context.WithDeadline(ctx, limit)
	go func() {
		// The session's end makes the write end too.
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
		w.writes <- job
	}()
	return cancel
}

// settle takes the end of a write.
func (w *worker) settle(ctx context.Context, r written) {
	w.writing = false
	if r.execution != nil {
		w.wrote(ctx, r)
		return
	}
	unwanted := w.underway.unwanted
	w.underway = attempt{}
	w.workBy(time.Now())
	now, ok := w.facts.wishes[r.property]
	switch {
	case !ok || !now.is(r.wish):
		// Another value is wanted meanwhile, or none. What was done is told all the same.
		c := r.wish
		c.Ack = Superseded
		if r.outcome.Written && r.err != nil {
			c.Message = r.err.Error()
		}
		w.host.meters.wrote(c.Ack)
		w.audit(r.property, c, r.outcome)
		return
	case r.err != nil && w.stale(ctx, r):
		// Cut off by a change of the definition, or by the end: it is tried again.
		if r.outcome.Written {
			c := now
			c.Reason, c.Message = ReasonInterrupted, r.err.Error()
			w.audit(r.property, c, r.outcome)
		}
		return
	case unwanted && !r.outcome.Written && unreachable(r.err):
		return // withdrawn before it began
	case unreachable(r.err):
		told := now.Reason == ReasonOffline
		now.Reason, now.Message, now.Time = ReasonOffline, r.err.Error(), time.Now().UnixMilli()
		w.facts.wishes[r.property] = now
		if !told || r.outcome.Written {
			w.audit(r.property, now, r.outcome)
			w.changed()
		}
		w.later()
		return
	}
	w.finish(r.property, now, r.outcome, r.err)
}

// unreachable tells the errors after which trying again may help.
func unreachable(err error) bool {
	return errors.Is(err, ErrUnreachable) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

// stale tells that a write failed because its session was replaced or stopped.
func (w *worker) stale(ctx context.Context, r written) bool {
	return ctx.Err() != nil || w.session == nil || w.session.number != r.session
}

// finish settles a desired value for good.
func (w *worker) finish(property string, c wish, o Outcome, err error) {
	var no *Rejection
	switch {
	case err == nil:
		c.Ack, c.Reason, c.Message = Applied, "", ""
		if c.Asserts > 0 {
			c.Reason = ReasonEnforced
		}
	case errors.As(err, &no):
		c.Ack, c.Reason, c.Message = Rejected, no.Reason, no.Message
	default:
		c.Ack, c.Reason, c.Message = Failed, ReasonFailure, err.Error()
	}
	c.Actual, c.Due = o.After, 0
	c.Time, c.Basis = time.Now().UnixMilli(), w.def.mark()
	w.facts.wishes[property], w.remember = c, true
	w.calmUntil, w.retryWait = time.Time{}, writeRetry
	w.conclude(property, c, o)
}

// conclude tells everybody how a desired value ended.
func (w *worker) conclude(property string, c wish, o Outcome) {
	w.host.meters.wrote(c.Ack)
	w.audit(property, c, o)
	message := property + " = " + c.Value
	if c.Message != "" {
		message += ": " + c.Message
	}
	w.log.Info("desired value settled", zap.String("property", property), zap.String("ack", string(c.Ack)),
		zap.String("version", c.Version), zap.String("reason", c.Reason), zap.Bool("written", o.Written))
	typ, reason := EventWarning, "DesiredFailed"
	switch c.Ack {
	case Applied:
		typ, reason = EventNormal, "DesiredApplied"
	case Rejected:
		reason = "DesiredRejected"
	case Expired:
		reason = "DesiredExpired"
	case Drifted:
		reason = "DesiredDrifted"
	}
	w.event(typ, reason, message)
	w.changed()
}

// later leaves an unreachable device in peace for a while.
func (w *worker) later() {
	w.calmUntil = time.Now().Add(w.retryWait)
	w.retryWait = min(2*w.retryWait, writeRetryMax)
}

// compare holds the good value of a point against what is desired of it, and tells
// whether its ack changed.
func (w *worker) compare(point int, now time.Time) bool {
	p, t := w.def.Points[point], &w.facts.twins[point]
	c, ok := w.facts.wishes[p.Name]
	if !ok || w.underway.property == p.Name {
		return false
	}
	is, changed := c.compare(p.Type, t.text, t.time, now)
	if !changed {
		return false
	}
	w.facts.wishes[p.Name], w.remember = is, true
	w.workAt = now
	if is.Ack == Drifted && c.Ack != Drifted {
		w.host.meters.wrote(Drifted)
		w.event(EventWarning, "DesiredDrifted", p.Name+": desired "+c.Value+", "+is.Message)
	}
	if is.Reason == ReasonEnforceEnded {
		w.audit(p.Name, is, Outcome{})
	}
	return true
}

func (w *worker) audit(property string, c wish, o Outcome) {
	w.record(&Audit{
		Property: property, Version: c.Version, Value: c.Value, Before: o.Before, After: o.After, Written: o.Written, Sent: o.Sent,
		Ack: c.Ack, Reason: c.Reason, Message: c.Message,
	})
}

// record numbers an audit and has it stored.
func (w *worker) record(a *Audit) {
	w.audits++
	a.Device, a.Node, a.Epoch, a.Sequence, a.Time = w.device, w.host.node, w.epoch, w.audits, time.Now().UnixMilli()
	w.outbox.put(a)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
