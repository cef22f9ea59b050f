package devices

import (
	"context"
	"time"

	"go.uber.org/zap"
)

// execution is a command on its way, with everybody who waits for its result.
type execution struct {
	command  Command
	deadline time.Time
	waiting  []chan CommandResult
	// plan is what is to be written, order the names of it, and done how many were.
	plan  plan
	order []string
	done  int
	// session is the one for which it was admitted.
	session uint64
	results map[string]PropertyResult
}

// receive takes a command that came in. One whose id is under way gets its result.
func (w *worker) receive(r *request) {
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
	w.host.meters.pending.Add(1)
	e := &execution{command: r.command, deadline: r.deadline, waiting: []chan CommandResult{r.reply}}
	if len(w.queue) >= commandQueue || w.outbox.records() > unstored {
		w.answer(e, CommandResult{Ack: Rejected, Reason: ReasonBusy, Message: "too many commands wait, or records for the sink"})
		return
	}
	w.queue = append(w.queue, e)
}

// answer tells everybody who waits the result of a command.
func (w *worker) answer(e *execution, r CommandResult) {
	r.ID = e.command.ID
	w.host.meters.pending.Add(-1)
	if !r.Repeated {
		w.host.meters.commanded(r.Ack)
	}
	for i, c := range e.waiting {
		r.Repeated = r.Repeated || i > 0
		c <- r
	}
}

// expireCommands answers the commands that can no longer begin.
func (w *worker) expireCommands(now time.Time) {
	kept := w.queue[:0]
	for _, e := range w.queue {
		switch {
		case now.Before(e.deadline):
			kept = append(kept, e)
		case !w.loaded:
			w.refuse(e, CommandResult{Ack: Failed, Reason: ReasonStateStore, Message: "what is recorded of the device could not be read; nothing was executed now"})
		case !w.repeat(e):
			w.refuse(e, CommandResult{Ack: Expired, Reason: ReasonDeadline, Message: "the deadline passed before the command began"})
		}
	}
	clear(w.queue[len(kept):])
	w.queue = kept
}

// repeat answers a command whose id is known.
func (w *worker) repeat(e *execution) bool {
	known := w.ledger.find(e.command.ID)
	if known == nil {
		return false
	}
	r := *known.Result // only what is executing has none, and that is not in the queue
	r.Repeated = true
	w.answer(e, r)
	return true
}

// refuse ends a command of which nothing was written.
func (w *worker) refuse(e *execution, r CommandResult) {
	for _, p := range sortedKeys(e.command.Properties) {
		w.auditCommand(e.command.ID, e.command.Method, p, e.command.Properties[p], PropertyResult{Ack: r.Ack, Reason: r.Reason, Message: r.Message})
	}
	w.log.Info("command refused", zap.String("command", e.command.ID), zap.String("ack", string(r.Ack)), zap.String("reason", r.Reason))
	w.answer(e, r)
}

// command carries on with the commands and tells whether it started a write.
func (w *worker) command(ctx context.Context) (started bool) {
	if !w.loaded || w.target != nil {
		return false // what the device is has not been taken over yet
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

// begin decides whether a command is carried out, and records that it may have been.
func (w *worker) begin(ctx context.Context, e *execution, now time.Time) bool {
	if w.repeat(e) {
		return false
	}
	p, no := admit(e.command, e.deadline, w.def, now)
	switch h := w.facts.health; {
	case no != nil:
		w.refuse(e, CommandResult{Ack: Rejected, Reason: no.Reason, Message: no.Message})
		return false
	case w.fenced:
		w.refuse(e, CommandResult{Ack: Failed, Reason: ReasonStale, Message: "the Device is older than one that was seen before"})
		return false
	case w.session == nil:
		w.refuse(e, CommandResult{Ack: Failed, Reason: h.reason, Message: h.message})
		return false
	case h.reason != ReasonConnecting && !h.answers():
		w.refuse(e, CommandResult{Ack: Failed, Reason: ReasonOffline, Message: h.reason + ": " + h.message})
		return false
	}
	if r := w.note(ctx, e, now); r != nil {
		w.refuse(e, *r)
		return false
	}
	e.session = w.session.number
	e.plan, e.results = p, make(map[string]PropertyResult, len(p))
	for _, i := range p {
		e.order = append(e.order, w.def.Points[i].Name)
	}
	return true
}

// note records a command before anything of it is written.
func (w *worker) note(ctx context.Context, e *execution, now time.Time) *CommandResult {
	ctx, cancel := context.WithDeadline(ctx, e.deadline)
	defer cancel()
	c := e.command
	s, ok := w.ledger.add(record{ID: c.ID, Deadline: e.deadline.UnixMilli(), Method: c.Method, Properties: c.Properties}, now)
	if !ok {
		return &CommandResult{Ack: Rejected, Reason: ReasonBusy, Message: "as many commands as can be remembered have deadlines that have not passed"}
	}
	var err error
	if s >= w.memory.Segments {
		was := w.memory.Segments
		w.memory.Segments = s + 1
		if err = w.save(ctx); err != nil {
			w.memory.Segments = was
		}
	}
	if err == nil {
		err = w.ledger.saveSegment(ctx, w.host.state, w.device, s)
	}
	if err != nil {
		w.ledger.remove(c.ID)
		w.log.Warn("command not recorded", zap.String("command", c.ID), zap.Error(err))
		return &CommandResult{Ack: Failed, Reason: ReasonStateStore, Message: "the command could not be recorded: " + err.Error()}
	}
	return nil
}

// proceed starts the next write of a command, unless it is over.
func (w *worker) proceed(ctx context.Context, e *execution, now time.Time) (started bool) {
	if e.done == len(e.order) {
		return false
	}
	name := e.order[e.done]
	if !now.Before(e.deadline) {
		w.stopAt(e, PropertyResult{Ack: Expired, Reason: ReasonDeadline, Message: "the deadline passed before it was written"})
		return false
	}
	if w.session != nil && w.session.number == e.session {
		w.write(ctx, e.plan[e.done], e.command.Properties[name], e.deadline, written{property: name, execution: e})
		return true
	}
	w.stopAt(e, PropertyResult{Ack: Failed, Reason: ReasonInterrupted, Message: "the session with the device ended before it was written"})
	return false
}

// wrote takes the end of a command's write.
func (w *worker) wrote(ctx context.Context, r written) {
	e := r.execution
	// Of two clocks that end a write at once either may be seen first.
	late := time.Until(e.deadline) <= 0
	result := end(r.outcome, r.err, w.stale(ctx, r), late)
	w.settleProperty(e, result)
	if result.Ack != Applied {
		w.stopAt(e, PropertyResult{Ack: Failed, Reason: ReasonNotTried, Message: "property " + r.property + " was not applied"})
	}
	w.changed()
}

func (w *worker) settleProperty(e *execution, r PropertyResult) {
	name := e.order[e.done]
	e.results[name] = r
	e.done++
	w.auditCommand(e.command.ID, e.command.Method, name, e.command.Properties[name], r)
}

// stopAt settles the rest of a command's properties.
func (w *worker) stopAt(e *execution, r PropertyResult) {
	for e.done < len(e.order) {
		w.settleProperty(e, r)
	}
}

// complete records the result of the command that is over and tells it.
func (w *worker) complete(ctx context.Context) {
	e := w.executing
	w.executing = nil
	r := resultOf(e.command.ID, e.order, e.results)
	if s, ok := w.ledger.finish(e.command.ID, r); ok {
		if err := w.ledger.saveSegment(ctx, w.host.state, w.device, s); err != nil {
			// It stays recorded as begun: it will not be repeated.
			w.log.Warn("result of command not recorded", zap.String("command", e.command.ID), zap.Error(err))
		}
	}
	w.log.Info("command settled", zap.String("command", e.command.ID), zap.String("method", e.command.Method),
		zap.String("ack", string(r.Ack)), zap.String("reason", r.Reason))
	typ, reason := EventNormal, "CommandApplied"
	if r.Ack != Applied {
		typ, reason = EventWarning, "CommandFailed"
	}
	message := "command " + e.command.ID
	if r.Message != "" {
		message += ": " + r.Message
	}
	w.event(typ, reason, message)
	w.answer(e, r)
}

// abandon ends what is under way when the worker stops: the write that runs is waited
// for, and commands are told that nothing more comes of them.
func (w *worker) abandon(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, farewell)
	defer cancel()
	if w.writing {
		w.settle(ctx, <-w.writes)
	}
	stopped := PropertyResult{Ack: Failed, Reason: ReasonStopped, Message: "the device is no longer operated here"}
	if w.executing != nil {
		w.stopAt(w.executing, stopped)
		w.complete(ctx)
	}
	for {
		select {
		case r := <-w.requests:
			w.receive(r)
			continue
		default:
		}
		break
	}
	for _, e := range w.queue {
		w.refuse(e, CommandResult{Ack: stopped.Ack, Reason: stopped.Reason, Message: stopped.Message})
	}
	w.queue = nil
}

func (w *worker) auditCommand(id, method, property, value string, r PropertyResult) {
	w.record(&Audit{
		Command: id, Method: method, Property: property, Value: value, Before: r.Before, After: r.After, Written: r.Written, Sent: r.Sent,
		Ack: r.Ack, Reason: r.Reason, Message: r.Message,
	})
}
