package host

import (
	"context"
	"slices"
	"time"

	"github.com/petiole-io/petiole/devices"
)

// reconcile applies a new target. It restarts the session only if its definition has
// changed.
func (w *worker) reconcile(ctx context.Context, t target) {
	def, desired, problems := devices.Resolve(t.device, t.model)
	w.facts.Points.Share(&def)
	if w.sessions.mapped(def.Protocol) { // mappers handle streams themselves
		problems = slices.DeleteFunc(problems, func(p devices.Problem) bool { return p.Reason == devices.ReasonStream })
	}
	fenced := w.saved.fence(t.origin)
	if fenced {
		w.observer.counters.Stale.Add(1)
		problems = append(problems, devices.Problem{
			Reason:  devices.ReasonStale,
			Message: "the Device object is older than one seen before; the device is read and not written",
		})
	}
	if w.sessions.running == nil || def.Digest() != w.facts.Definition.Digest() || def.Disabled {
		w.replaceSession(ctx, def, problems)
	} else {
		w.facts.SetDefinition(def)
		if s, ok := w.sessions.running.session.(devices.Redefiner); ok {
			s.Redefine(def)
		}
	}
	w.facts.Generation = t.device.Generation
	w.observer.setProblems(problems, w.sessions.problems)
	w.status.setInterval(def.Report.Interval)
	if !fenced {
		w.saved.accept(t.origin)
		if t.model != nil { // without it desired values cannot be validated
			w.desired.apply(desired, t.origin.Version)
		}
	}
	if w.saved.changed {
		w.desired.schedule(time.Now())
	}
	w.status.checkAt = time.Now()
	w.status.changed()
}

// replaceSession ends the session and starts one for a new definition. The new one starts
// first, so that a connection that both use stays open.
func (w *worker) replaceSession(ctx context.Context, def devices.Definition, problems []devices.Problem) {
	old := w.sessions.running
	w.sessions.running = nil
	session := w.sessions.open(def, problems)
	w.observer.restart(def, slices.Concat(w.sessions.problems, problems))
	w.desired.retry() // writes that waited may be possible now
	w.sessions.reset()
	if session != nil {
		w.sessions.start(ctx, session)
	} else {
		w.facts.MakeUncertain(w.facts.Health.Reason, time.Now())
	}
	if old != nil {
		old.stop()
	}
}

// reopenSession opens a session again after it ended by itself.
func (w *worker) reopenSession(ctx context.Context) {
	w.sessions.reopenAt = time.Time{}
	session := w.sessions.open(w.facts.Definition, nil)
	if session == nil {
		w.observer.reopenFailed(w.sessions.problems)
		return
	}
	w.sessions.start(ctx, session)
	w.desired.schedule(time.Now())
}
