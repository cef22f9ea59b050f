package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/internal/commandlog"
)

// reconcile applies a new target. It restarts the session only if its definition has
// changed.
func (w *worker) reconcile(ctx context.Context, t target) {
	def, desired, problems := devices.Resolve(t.device, t.model)
	w.fenced = t.origin.older(w.saved.Origin)
	if w.fenced {
		w.host.counters.Stale.Add(1)
		problems = append(problems, devices.Problem{
			Reason:  devices.ReasonStale,
			Message: "the Device object is older than one seen before; the device is read and not written",
		})
	}
	if w.session == nil || def.Digest() != w.def.Digest() || def.Disabled {
		w.openProblems = w.replaceSession(ctx, def, problems)
	} else {
		w.setDefinition(def)
		if s, ok := w.session.session.(devices.Redefiner); ok {
			s.Redefine(def)
		}
	}
	w.facts.problems = slices.Concat(problems, w.openProblems)
	w.facts.report, w.facts.generation = def.Report, t.device.Generation
	w.status.SetInterval(max(w.host.interval, def.Report.Interval))
	if !w.fenced {
		if !t.origin.coveredBy(w.saved.Origin) {
			w.needsSave = true
		}
		w.saved.Origin = t.origin
		if t.model != nil { // without it desired values cannot be validated
			w.desired.apply(desired, t.origin.Version)
		}
	}
	if w.needsSave {
		w.desired.schedule(time.Now())
	}
	w.checkAt = time.Now()
	w.reportProblems()
	w.changed()
}

// load reads the saved state of the device. Without it a value could be written twice, so
// load is repeated until it succeeds.
func (w *worker) load(ctx context.Context) bool {
	if w.loaded {
		return true
	}
	if time.Now().Before(w.loadAt) {
		return false
	}
	m, l, err := w.readState(ctx)
	if ctx.Err() != nil {
		return false // the worker stops: the error follows from that
	}
	if err != nil {
		w.log.Warn("load state of device", zap.Error(err))
		w.loadAt = time.Now().Add(w.loadBackoff.Next())
		return false
	}
	w.saved, w.loaded = m, true
	w.facts.desired = m.Desired
	if m.LastOnline > 0 {
		w.facts.lastOnline = time.UnixMilli(m.LastOnline)
	}
	w.commands.start(l)
	return true
}

// readState reads the saved state and the command log. It goes on without what is corrupt,
// which is the smaller harm: desired values are compared with the device before they are
// written.
func (w *worker) readState(ctx context.Context) (savedState, commandlog.Log, error) {
	m, err := loadState(ctx, w.host.state, w.device)
	if err != nil && !errors.Is(err, errCorrupt) {
		return m, commandlog.Log{}, err
	}
	if err != nil {
		w.log.Error("saved state is corrupt and is ignored", zap.Error(err))
	}
	l, err := commandlog.Load(ctx, w.host.state, w.device, m.Segments)
	if err != nil && !errors.Is(err, commandlog.ErrCorrupt) {
		return m, l, err
	}
	if err != nil {
		w.log.Error("command log is corrupt and is ignored in part", zap.Error(err))
	}
	m.Segments = l.Stored
	return m, l, nil
}

// save saves the state of the device.
func (w *worker) save(ctx context.Context) error {
	w.saved.UID, w.saved.Desired = w.device.UID, w.facts.desired
	w.saved.LastOnline = unixMilli(w.facts.lastOnline)
	if err := w.saved.save(ctx, w.host.state, w.device); err != nil {
		return err
	}
	w.needsSave = false
	return nil
}

// reportProblems logs the problems of the definition and emits events for them, if they
// have changed.
func (w *worker) reportProblems() {
	text := fmt.Sprint(w.facts.problems)
	if len(w.facts.problems) == 0 {
		text = ""
	}
	if text == w.reportedProblems {
		return
	}
	w.reportedProblems = text
	for _, p := range w.facts.problems {
		message := p.Message
		if p.Property != "" {
			message = "property " + p.Property + ": " + message
		}
		w.log.Warn("device definition has a problem", zap.String("reason", p.Reason), zap.String("message", message))
		w.records.Event(devices.EventWarning, p.Reason, message)
	}
}
