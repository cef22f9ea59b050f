package host

import (
	"context"
	"time"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/internal/report"
	"go.uber.org/zap"
)

// request is a command with the channel for its result.
type request struct {
	command  devices.Command
	deadline time.Time
	reply    chan devices.CommandResult // has room for one result
}

// execution is a command that was received, with all callers that wait for its result.
type execution struct {
	command  devices.Command
	deadline time.Time
	waiting  []chan devices.CommandResult
	// plan has the points to write, order their names, and done how many are finished.
	plan  plan
	order []string
	done  int
	// session is the number of the session for which it was admitted.
	session uint64
	results map[string]devices.PropertyResult
}

// enqueue queues a command. If its id is queued or executing, it waits for that result.
func (w *worker) enqueue(r *request) {
	for _, e := range w.queue {
		if e.command.ID == r.command.ID {
			e.waiting = append(e.waiting, r.reply)
			return
		}
	}
	if e := w.executing; e != nil && e.command.ID == r.command.ID {
		e.waiting = append(e.waiting, r.reply)
		return
	}
	w.host.counters.Pending.Add(1)
	e := &execution{command: r.command, deadline: r.deadline, waiting: []chan devices.CommandResult{r.reply}}
	if len(w.queue) >= commandQueue || w.records.Unstored() > maxUnstored {
		w.reply(e, devices.CommandResult{Ack: devices.Rejected, Reason: devices.ReasonBusy, Message: "too many commands are waiting, or too many records that the sink does not accept"})
		return
	}
	w.queue = append(w.queue, e)
}

// reply sends the result of a command to all callers that wait for it.
func (w *worker) reply(e *execution, r devices.CommandResult) {
	r.ID = e.command.ID
	w.host.counters.Pending.Add(-1)
	if !r.Repeated {
		w.host.counters.CountCommand(r.Ack)
	}
	for i, c := range e.waiting {
		r.Repeated = r.Repeated || i > 0
		c <- r
	}
}

// expireCommands ends the queued commands whose deadlines have passed.
func (w *worker) expireCommands(now time.Time) {
	kept := w.queue[:0]
	for _, e := range w.queue {
		switch {
		case now.Before(e.deadline):
			kept = append(kept, e)
		case !w.loaded:
			w.refuse(e, devices.CommandResult{Ack: devices.Failed, Reason: devices.ReasonStateStore, Message: "the recorded state of the device could not be read; nothing was executed"})
		case !w.replyRecorded(e):
			w.refuse(e, devices.CommandResult{Ack: devices.Expired, Reason: devices.ReasonDeadline, Message: "the deadline passed before the command began"})
		}
	}
	clear(w.queue[len(kept):])
	w.queue = kept
}

// replyRecorded replies to a command whose id is recorded. It returns false if it is not.
func (w *worker) replyRecorded(e *execution) bool {
	known := w.commandLog.find(e.command.ID)
	if known == nil {
		return false
	}
	r := *known.Result // only the executing command has none, and it is not queued
	r.Repeated = true
	w.reply(e, r)
	return true
}

// refuse ends a command of which nothing was written.
func (w *worker) refuse(e *execution, r devices.CommandResult) {
	for _, p := range sortedKeys(e.command.Properties) {
		w.auditCommand(e.command.ID, e.command.Method, p, e.command.Properties[p], devices.PropertyResult{Ack: r.Ack, Reason: r.Reason, Message: r.Message})
	}
	w.log.Info("command refused", zap.String("command", e.command.ID), zap.String("ack", string(r.Ack)), zap.String("reason", r.Reason))
	w.reply(e, r)
}

// command continues with the commands, and reports whether it started a write.
func (w *worker) command(ctx context.Context) (started bool) {
	if !w.loaded || w.target != nil {
		return false // the newest definition has not been reconciled yet
	}
	for w.executing != nil || len(w.queue) > 0 {
		if w.executing == nil {
			e := w.queue[0]
			w.queue[0] = nil
			w.queue = w.queue[1:]
			if !w.begin(ctx, e, time.Now()) {
				continue
			}
			w.executing = e
		}
		if w.proceed(ctx, w.executing, time.Now()) {
			return true
		}
		w.complete(ctx)
	}
	return false
}

// begin admits a command and records it before anything is written. It returns false if the
// command has ended instead.
func (w *worker) begin(ctx context.Context, e *execution, now time.Time) bool {
	if w.replyRecorded(e) {
		return false
	}
	p, rejection := admit(e.command, e.deadline, w.def, now)
	switch h := w.facts.health; {
	case rejection != nil:
		w.refuse(e, devices.CommandResult{Ack: devices.Rejected, Reason: rejection.Reason, Message: rejection.Message})
		return false
	case w.fenced:
		w.refuse(e, devices.CommandResult{Ack: devices.Failed, Reason: devices.ReasonStale, Message: "the Device object is older than one seen before"})
		return false
	case w.session == nil:
		w.refuse(e, devices.CommandResult{Ack: devices.Failed, Reason: h.reason, Message: h.message})
		return false
	case h.reason != devices.ReasonConnecting && !h.answers():
		w.refuse(e, devices.CommandResult{Ack: devices.Failed, Reason: devices.ReasonOffline, Message: h.reason + ": " + h.message})
		return false
	}
	if r := w.recordCommand(ctx, e, now); r != nil {
		w.refuse(e, *r)
		return false
	}
	e.session = w.session.number
	e.plan, e.results = p, make(map[string]devices.PropertyResult, len(p))
	for _, i := range p {
		e.order = append(e.order, w.def.Points[i].Name)
	}
	return true
}

// recordCommand saves a command. It returns the result with which to refuse the command if
// that fails.
func (w *worker) recordCommand(ctx context.Context, e *execution, now time.Time) *devices.CommandResult {
	ctx, cancel := context.WithDeadline(ctx, e.deadline)
	defer cancel()
	c := e.command
	s, ok := w.commandLog.add(commandRecord{ID: c.ID, Deadline: e.deadline.UnixMilli(), Method: c.Method, Properties: c.Properties}, now)
	if !ok {
		return &devices.CommandResult{Ack: devices.Rejected, Reason: devices.ReasonBusy, Message: "the command log is full of commands whose deadlines have not passed"}
	}
	var err error
	if s >= w.saved.Segments {
		was := w.saved.Segments
		w.saved.Segments = s + 1
		if err = w.save(ctx); err != nil {
			w.saved.Segments = was
		}
	}
	if err == nil {
		err = w.commandLog.saveSegment(ctx, w.host.state, w.device, s)
	}
	if err != nil {
		w.commandLog.remove(c.ID)
		w.log.Warn("command not recorded", zap.String("command", c.ID), zap.Error(err))
		return &devices.CommandResult{Ack: devices.Failed, Reason: devices.ReasonStateStore, Message: "the command could not be recorded: " + err.Error()}
	}
	return nil
}

// proceed starts the next write of a command. It returns false if the command is finished.
func (w *worker) proceed(ctx context.Context, e *execution, now time.Time) (started bool) {
	if e.done == len(e.order) {
		return false
	}
	name := e.order[e.done]
	if !now.Before(e.deadline) {
		w.finishRest(e, devices.PropertyResult{Ack: devices.Expired, Reason: devices.ReasonDeadline, Message: "the deadline passed before it was written"})
		return false
	}
	if w.session != nil && w.session.number == e.session {
		w.write(ctx, e.plan[e.done], e.command.Properties[name], e.deadline, writeResult{property: name, execution: e})
		return true
	}
	w.finishRest(e, devices.PropertyResult{Ack: devices.Failed, Reason: devices.ReasonInterrupted, Message: "the session with the device ended before it was written"})
	return false
}

// commandWritten handles the result of a command's write.
func (w *worker) commandWritten(ctx context.Context, r writeResult) {
	e := r.execution
	// The deadline may be noticed here or by the driver first.
	late := time.Until(e.deadline) <= 0
	result := propertyResult(r.outcome, r.err, w.sessionReplaced(ctx, r), late)
	w.finishProperty(e, result)
	if result.Ack != devices.Applied {
		w.finishRest(e, devices.PropertyResult{Ack: devices.Failed, Reason: devices.ReasonNotTried, Message: "property " + r.property + " was not applied"})
	}
	w.changed()
}

func (w *worker) finishProperty(e *execution, r devices.PropertyResult) {
	name := e.order[e.done]
	e.results[name] = r
	e.done++
	w.auditCommand(e.command.ID, e.command.Method, name, e.command.Properties[name], r)
}

// finishRest finishes the remaining properties of a command with the same result.
func (w *worker) finishRest(e *execution, r devices.PropertyResult) {
	for e.done < len(e.order) {
		w.finishProperty(e, r)
	}
}

// complete records the result of the executing command and replies with it.
func (w *worker) complete(ctx context.Context) {
	e := w.executing
	w.executing = nil
	r := resultOf(e.command.ID, e.order, e.results)
	if s, ok := w.commandLog.finish(e.command.ID, r); ok {
		if err := w.commandLog.saveSegment(ctx, w.host.state, w.device, s); err != nil {
			// It stays recorded as begun, so that it is not executed again.
			w.log.Warn("result of command not recorded", zap.String("command", e.command.ID), zap.Error(err))
		}
	}
	w.log.Info("command finished", zap.String("command", e.command.ID), zap.String("method", e.command.Method),
		zap.String("ack", string(r.Ack)), zap.String("reason", r.Reason))
	typ, reason := devices.EventNormal, "CommandApplied"
	if r.Ack != devices.Applied {
		typ, reason = devices.EventWarning, "CommandFailed"
	}
	message := "command " + e.command.ID
	if r.Message != "" {
		message += ": " + r.Message
	}
	w.records.Event(typ, reason, message)
	w.reply(e, r)
}

// abandon ends writes and commands when the worker stops. It waits for the write that runs,
// and fails the commands that are left.
func (w *worker) abandon(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, report.StopTimeout)
	defer cancel()
	if w.writing {
		w.handleWriteResult(ctx, <-w.writeResults)
	}
	stopped := devices.PropertyResult{Ack: devices.Failed, Reason: devices.ReasonStopped, Message: "the device is no longer operated here"}
	if w.executing != nil {
		w.finishRest(w.executing, stopped)
		w.complete(ctx)
	}
	for {
		select {
		case r := <-w.requests:
			w.enqueue(r)
			continue
		default:
		}
		break
	}
	for _, e := range w.queue {
		w.refuse(e, devices.CommandResult{Ack: stopped.Ack, Reason: stopped.Reason, Message: stopped.Message})
	}
	w.queue = nil
}

func (w *worker) auditCommand(id, method, property, value string, r devices.PropertyResult) {
	w.records.Audit(&devices.Audit{
		Command: id, Method: method, Property: property, Value: value, Before: r.Before, After: r.After, Written: r.Written, Sent: r.Sent,
		Ack: r.Ack, Reason: r.Reason, Message: r.Message,
	})
}
