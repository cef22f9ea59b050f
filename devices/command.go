package devices

import (
	"context"
	"errors"
	"maps"
	"sort"
	"time"

	"go.uber.org/zap"
)

// written is the end of an attempt to give a property its desired value.
type written struct {
	session  uint64
	property string
	command  command
	outcome  Outcome
	err      error
}

// want takes the desired values of a target over.
func (w *worker) want(desired []Desired, version string) {
	now, superseded := next(desired, version, w.def.mark(), w.facts.commands)
	for p, c := range superseded {
		if w.writing && w.underway == p {
			continue // told when its end is known
		}
		c.Ack = Superseded
		w.audit(p, c, Outcome{})
	}
	if !maps.Equal(now, w.facts.commands) {
		w.facts.commands, w.remember = now, true
		w.retryAt, w.retryWait = time.Now(), writeRetry
	}
}

// work starts the next thing that is due: saving the commands, then one write. At
// most one runs at a time, outside of the worker's goroutine.
func (w *worker) work(ctx context.Context) {
	if w.writing || w.retryAt.IsZero() || time.Now().Before(w.retryAt) {
		return
	}
	if w.remember {
		// Before anything is written: a restart must find that it may have been.
		if err := save(ctx, w.host.state, w.device, w.facts.commands); err != nil {
			w.later()
			w.log.Warn("state not saved, writes wait", zap.Error(err))
			return
		}
		w.remember = false
	}
	for _, property := range w.pending() {
		i := w.point(property)
		c := w.facts.commands[property]
		if i < 0 || w.session == nil {
			continue // a problem of the definition; what it waits for is a new one
		}
		if r := check(w.def.Points[i], c.Value); r != nil {
			w.finish(property, c, Outcome{}, r)
			continue
		}
		w.write(ctx, i, property, c)
		return
	}
	if !w.remember {
		w.retryAt = time.Time{}
	}
}

func (w *worker) pending() []string {
	var names []string
	for p, c := range w.facts.commands {
		if c.Ack == Pending {
			names = append(names, p)
		}
	}
	sort.Strings(names)
	// A property that was tried goes behind those that were not.
	sort.SliceStable(names, func(a, b int) bool { return w.facts.commands[names[a]].Time < w.facts.commands[names[b]].Time })
	return names
}

func (w *worker) point(property string) int {
	for i, p := range w.def.Points {
		if p.Name == property {
			return i
		}
	}
	return -1
}

func (w *worker) write(ctx context.Context, point int, property string, c command) {
	w.writing, w.underway = true, property
	r := w.session
	go func() {
		// The session's end makes the write end too.
		wctx, cancel := context.WithCancel(ctx)
		defer cancel()
		go func() {
			select {
			case <-r.done:
				cancel()
			case <-wctx.Done():
			}
		}()
		out, err := r.session.Write(wctx, point, c.Value)
		w.writes <- written{session: r.number, property: property, command: c, outcome: out, err: err}
	}()
}

// settle takes the end of a write.
func (w *worker) settle(r written) {
	w.writing = false
	now, ok := w.facts.commands[r.property]
	if !ok || now.Mark != r.command.Mark {
		// A newer value came meanwhile. What was done is told all the same.
		c := r.command
		c.Ack = Superseded
		w.audit(r.property, c, r.outcome)
		return
	}
	if r.err != nil && w.stale(r) {
		w.retryAt = time.Now() // cut off by a change of the definition
		return
	}
	if errors.Is(r.err, ErrUnreachable) {
		told := now.Reason == ReasonOffline
		now.Reason, now.Message, now.Time = ReasonOffline, r.err.Error(), time.Now().UnixMilli()
		w.facts.commands[r.property] = now
		if !told {
			w.audit(r.property, now, r.outcome)
			w.changed()
		}
		w.later()
		return
	}
	w.finish(r.property, now, r.outcome, r.err)
}

// stale tells that a write failed because its session was replaced.
func (w *worker) stale(r written) bool { return w.session == nil || w.session.number != r.session }

// finish settles a command for good.
func (w *worker) finish(property string, c command, o Outcome, err error) {
	var no *Rejection
	typ := EventWarning
	switch {
	case err == nil:
		c.Ack, c.Reason, c.Message, c.Actual = Applied, "", "", o.After
		typ = EventNormal
	case errors.As(err, &no):
		c.Ack, c.Reason, c.Message, c.Actual = Rejected, no.Reason, no.Message, o.After
	default:
		c.Ack, c.Reason, c.Message, c.Actual = Failed, "DeviceFailure", err.Error(), o.After
	}
	c.Time, c.Basis = time.Now().UnixMilli(), w.def.mark()
	w.facts.commands[property] = c
	w.remember = true
	w.retryAt, w.retryWait = time.Now(), writeRetry
	w.audit(property, c, o)
	message := property + " = " + c.Value
	if c.Message != "" {
		message += ": " + c.Message
	}
	w.log.Info("desired value settled", zap.String("property", property), zap.String("ack", string(c.Ack)),
		zap.String("version", c.Version), zap.String("reason", c.Reason), zap.Bool("written", o.Written))
	w.event(typ, eventOf(c.Ack), message)
	w.changed()
}

func eventOf(a Ack) string {
	switch a {
	case Applied:
		return "DesiredApplied"
	case Rejected:
		return "DesiredRejected"
	default:
		return "DesiredFailed"
	}
}

// later puts the next attempt off.
func (w *worker) later() {
	w.retryAt = time.Now().Add(w.retryWait)
	w.retryWait = min(2*w.retryWait, writeRetryMax)
}

// drift compares a fresh reported value with what was applied, and tells whether
// the command's ack changed.
func (w *worker) drift(point int) bool {
	property, t := w.def.Points[point].Name, w.facts.twins[point]
	c, ok := w.facts.commands[property]
	if !ok {
		return false
	}
	is := drifted(c, t.text)
	switch {
	case is && c.Ack == Applied && t.time.UnixMilli() > c.Time:
		c.Ack, c.Reason, c.Message = Drifted, "ChangedAtDevice", "the device has "+t.text
		w.event(EventWarning, "DesiredDrifted", property+": desired "+c.Value+", the device has "+t.text)
	case !is && c.Ack == Drifted:
		c.Ack, c.Reason, c.Message = Applied, "", ""
	default:
		return false
	}
	w.facts.commands[property] = c
	return true
}

func (w *worker) audit(property string, c command, o Outcome) {
	w.audits++
	w.outbox.put(&Audit{
		Device: w.device, Node: w.host.node, Epoch: w.epoch, Sequence: w.audits, Property: property, Version: c.Version, Value: c.Value,
		Before: o.Before, After: o.After, Written: o.Written, Ack: c.Ack, Reason: c.Reason, Message: c.Message, Time: time.Now().UnixMilli(),
	})
}
