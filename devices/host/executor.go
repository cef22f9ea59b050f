package host

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/internal/commandlog"
	"github.com/petiole-io/petiole/devices/internal/stats"
	"github.com/petiole-io/petiole/devices/internal/twin"
)

// request is a command with the channel for its result.
type request struct {
	command  devices.Command
	deadline time.Time
	reply    chan devices.CommandResult // has room for one result
}

// executor carries out the commands of one device, one after the other, and records them.
type executor struct {
	facts    *twin.Device
	sessions *sessions
	saved    *savedDevice
	counters *stats.Counters
	records  recorder
	log      *zap.Logger

	history   commandlog.Log
	queue     []*execution // commands that have not begun
	executing *execution
	// interrupted are the segments with interrupted commands whose results are not saved.
	interrupted []int
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
func (x *executor) enqueue(r *request) {
	for _, e := range x.queue {
		if e.command.ID == r.command.ID {
			e.waiting = append(e.waiting, r.reply)
			return
		}
	}
	if e := x.executing; e != nil && e.command.ID == r.command.ID {
		e.waiting = append(e.waiting, r.reply)
		return
	}
	x.counters.Pending.Add(1)
	e := &execution{command: r.command, deadline: r.deadline, waiting: []chan devices.CommandResult{r.reply}}
	if len(x.queue) >= commandQueue || x.records.Unstored() > maxUnstored {
		x.reply(e, devices.CommandResult{Ack: devices.Rejected, Reason: devices.ReasonBusy, Message: "too many commands are waiting, or too many records that the sink does not accept"})
		return
	}
	x.queue = append(x.queue, e)
}

// reply sends the result of a command to all callers that wait for it.
func (x *executor) reply(e *execution, r devices.CommandResult) {
	r.ID = e.command.ID
	x.counters.Pending.Add(-1)
	if !r.Repeated {
		x.counters.CountCommand(r.Ack)
	}
	for i, c := range e.waiting {
		r.Repeated = r.Repeated || i > 0
		c <- r
	}
}

// expire ends the queued commands whose deadlines have passed. Loaded reports whether the
// recorded commands are known.
func (x *executor) expire(now time.Time, loaded bool) {
	kept := x.queue[:0]
	for _, e := range x.queue {
		switch {
		case now.Before(e.deadline):
			kept = append(kept, e)
		case !loaded:
			x.refuse(e, devices.CommandResult{Ack: devices.Failed, Reason: devices.ReasonStateStore, Message: "the recorded state of the device could not be read; nothing was executed"})
		case !x.replyRecorded(e):
			x.refuse(e, devices.CommandResult{Ack: devices.Expired, Reason: devices.ReasonDeadline, Message: "the deadline passed before the command began"})
		}
	}
	clear(x.queue[len(kept):])
	x.queue = kept
}

// replyRecorded replies to a command whose id is recorded. It returns false if it is not.
func (x *executor) replyRecorded(e *execution) bool {
	known := x.history.Find(e.command.ID)
	if known == nil {
		return false
	}
	r := *known.Result // only the executing command has none, and it is not queued
	r.Repeated = true
	x.reply(e, r)
	return true
}

// refuse ends a command of which nothing was written.
func (x *executor) refuse(e *execution, r devices.CommandResult) {
	for _, p := range sortedKeys(e.command.Properties) {
		x.auditCommand(e.command.ID, e.command.Method, p, e.command.Properties[p], devices.PropertyResult{Ack: r.Ack, Reason: r.Reason, Message: r.Message})
	}
	x.log.Info("command refused", zap.String("command", e.command.ID), zap.String("ack", string(r.Ack)), zap.String("reason", r.Reason))
	x.reply(e, r)
}

// advance continues with the commands, and reports whether it started a write.
func (x *executor) advance(ctx context.Context) (started bool) {
	for x.executing != nil || len(x.queue) > 0 {
		if x.executing == nil {
			e := x.queue[0]
			x.queue[0] = nil
			x.queue = x.queue[1:]
			if !x.begin(ctx, e, time.Now()) {
				continue
			}
			x.executing = e
		}
		if x.proceed(ctx, x.executing, time.Now()) {
			return true
		}
		x.complete(ctx)
	}
	return false
}

// begin admits a command and records it before anything is written. It returns false if the
// command has ended instead.
func (x *executor) begin(ctx context.Context, e *execution, now time.Time) bool {
	if x.replyRecorded(e) {
		return false
	}
	def := x.facts.Definition
	p, rejection := admit(e.command, e.deadline, def, now)
	if rejection != nil {
		x.refuse(e, devices.CommandResult{Ack: devices.Rejected, Reason: rejection.Reason, Message: rejection.Message})
		return false
	}
	if r := x.obstacle(); r != nil {
		x.refuse(e, *r)
		return false
	}
	if r := x.recordCommand(ctx, e, now); r != nil {
		x.refuse(e, *r)
		return false
	}
	e.session = x.sessions.number()
	e.plan, e.results = p, make(map[string]devices.PropertyResult, len(p))
	for _, i := range p {
		e.order = append(e.order, def.Points[i].Name)
	}
	return true
}

// obstacle returns the result of commands that cannot be carried out now, or nil if they can.
func (x *executor) obstacle() *devices.CommandResult {
	switch h := x.facts.Health; {
	case x.saved.fenced:
		return &devices.CommandResult{Ack: devices.Failed, Reason: devices.ReasonStale, Message: "the Device object is older than one seen before"}
	case x.sessions.running == nil:
		return &devices.CommandResult{Ack: devices.Failed, Reason: h.Reason, Message: h.Message}
	case h.Reason != devices.ReasonConnecting && !h.Answers():
		return &devices.CommandResult{Ack: devices.Failed, Reason: devices.ReasonOffline, Message: h.Reason + ": " + h.Message}
	}
	return nil
}

// recordCommand saves a command. It returns the result with which to refuse the command if
// that fails.
func (x *executor) recordCommand(ctx context.Context, e *execution, now time.Time) *devices.CommandResult {
	ctx, cancel := context.WithDeadline(ctx, e.deadline)
	defer cancel()
	c := e.command
	s, ok := x.history.Add(commandlog.Record{ID: c.ID, Method: c.Method, Properties: c.Properties}, e.deadline, now)
	if !ok {
		return &devices.CommandResult{Ack: devices.Rejected, Reason: devices.ReasonBusy, Message: "the command log is full of commands whose deadlines have not passed"}
	}
	err := x.saved.keepSegments(ctx, s+1)
	if err == nil {
		err = x.history.Save(ctx, x.saved.state, x.facts.Ref, s)
	}
	if err != nil {
		x.history.Remove(c.ID)
		x.log.Warn("command not recorded", zap.String("command", c.ID), zap.Error(err))
		return &devices.CommandResult{Ack: devices.Failed, Reason: devices.ReasonStateStore, Message: "the command could not be recorded: " + err.Error()}
	}
	return nil
}

// proceed starts the next write of a command. It returns false if the command is finished.
func (x *executor) proceed(ctx context.Context, e *execution, now time.Time) (started bool) {
	if e.done == len(e.order) {
		return false
	}
	name := e.order[e.done]
	if !now.Before(e.deadline) {
		x.finishRest(e, devices.PropertyResult{Ack: devices.Expired, Reason: devices.ReasonDeadline, Message: "the deadline passed before it was written"})
		return false
	}
	if x.sessions.number() == e.session {
		x.sessions.write(ctx, e.plan[e.done], e.command.Properties[name], e.deadline, writeResult{property: name, execution: e})
		return true
	}
	x.finishRest(e, devices.PropertyResult{Ack: devices.Failed, Reason: devices.ReasonInterrupted, Message: "the session with the device ended before it was written"})
	return false
}

// written handles the result of a command's write. Replaced reports whether the session was
// replaced or stopped meanwhile.
func (x *executor) written(r writeResult, replaced bool) {
	e := r.execution
	// The deadline may be noticed here or by the driver first.
	late := time.Until(e.deadline) <= 0
	result := propertyResult(r.outcome, r.err, replaced, late)
	x.finishProperty(e, result)
	if result.Ack != devices.Applied {
		x.finishRest(e, devices.PropertyResult{Ack: devices.Failed, Reason: devices.ReasonNotTried, Message: "property " + r.property + " was not applied"})
	}
}

func (x *executor) finishProperty(e *execution, r devices.PropertyResult) {
	name := e.order[e.done]
	e.results[name] = r
	e.done++
	x.auditCommand(e.command.ID, e.command.Method, name, e.command.Properties[name], r)
}

// finishRest finishes the remaining properties of a command with the same result.
func (x *executor) finishRest(e *execution, r devices.PropertyResult) {
	for e.done < len(e.order) {
		x.finishProperty(e, r)
	}
}

// complete records the result of the executing command and replies with it.
func (x *executor) complete(ctx context.Context) {
	e := x.executing
	x.executing = nil
	r := resultOf(e.command.ID, e.order, e.results)
	if s, ok := x.history.Finish(e.command.ID, r); ok {
		if err := x.history.Save(ctx, x.saved.state, x.facts.Ref, s); err != nil {
			// It stays recorded as begun, so that it is not executed again.
			x.log.Warn("result of command not recorded", zap.String("command", e.command.ID), zap.Error(err))
		}
	}
	x.log.Info("command finished", zap.String("command", e.command.ID), zap.String("method", e.command.Method),
		zap.String("ack", string(r.Ack)), zap.String("reason", r.Reason))
	typ, reason := devices.EventNormal, "CommandApplied"
	if r.Ack != devices.Applied {
		typ, reason = devices.EventWarning, "CommandFailed"
	}
	message := "command " + e.command.ID
	if r.Message != "" {
		message += ": " + r.Message
	}
	x.records.Event(typ, reason, message)
	x.reply(e, r)
}

// stop fails the commands that are left, also those that were received last.
func (x *executor) stop(ctx context.Context, received <-chan *request) {
	stopped := devices.PropertyResult{Ack: devices.Failed, Reason: devices.ReasonStopped, Message: "the device is no longer operated here"}
	if x.executing != nil {
		x.finishRest(x.executing, stopped)
		x.complete(ctx)
	}
	for {
		select {
		case r := <-received:
			x.enqueue(r)
			continue
		default:
		}
		break
	}
	for _, e := range x.queue {
		x.refuse(e, devices.CommandResult{Ack: stopped.Ack, Reason: stopped.Reason, Message: stopped.Message})
	}
	x.queue = nil
}

// start takes over the recorded commands. Those that were interrupted by a restart have
// failed.
func (x *executor) start(l commandlog.Log) {
	x.history = l
	open, segments := x.history.Interrupted()
	x.interrupted = segments
	for _, r := range open {
		for _, p := range sortedKeys(r.Properties) {
			x.auditCommand(r.ID, r.Method, p, r.Properties[p], devices.PropertyResult{Ack: devices.Failed, Reason: devices.ReasonUnknown, Message: "interrupted by a restart"})
		}
	}
}

// saveInterrupted saves the results of interrupted commands, after the sink has stored their
// audits. Until then a restart finds the commands open and audits them again.
func (x *executor) saveInterrupted(ctx context.Context) {
	if len(x.interrupted) == 0 || x.records.Unstored() > 0 {
		return
	}
	for _, i := range x.interrupted {
		if err := x.history.Save(ctx, x.saved.state, x.facts.Ref, i); err != nil {
			x.log.Warn("interrupted commands not recorded", zap.Error(err))
			return
		}
	}
	x.interrupted = nil
}

// due returns when the executor should be called again, zero if there is no such time.
func (x *executor) due(now time.Time) (at time.Time) {
	if len(x.interrupted) > 0 {
		at = now.Add(writeRetry)
	}
	for _, e := range x.queue {
		if at.IsZero() || e.deadline.Before(at) {
			at = e.deadline
		}
	}
	return at
}

func (x *executor) auditCommand(id, method, property, value string, r devices.PropertyResult) {
	x.records.Audit(&devices.Audit{
		Command: id, Method: method, Property: property, Value: value, Before: r.Before, After: r.After, Written: r.Written, Sent: r.Sent,
		Ack: r.Ack, Reason: r.Reason, Message: r.Message,
	})
}
