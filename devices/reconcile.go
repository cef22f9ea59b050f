package devices

import (
	"context"
	"errors"
	"slices"
	"time"

	"go.uber.org/zap"
)

// reconcile takes a new target over: the desired values always, the session only
// when what it reads has changed.
func (w *worker) reconcile(ctx context.Context, t target) {
	def, desired, problems := Resolve(t.device, t.model)
	w.fenced = t.origin.older(w.memory.Origin)
	if w.fenced {
		w.host.meters.stale.Add(1)
		problems = append(problems, Problem{
			Reason:  ReasonStale,
			Message: "the Device is older than one that was seen before; it is read from and not written to",
		})
	}
	if w.session == nil || def.mark() != w.def.mark() || def.Disabled {
		w.opened = w.replace(ctx, def, problems)
	} else {
		w.adopt(def)
		if s, ok := w.session.session.(Redefiner); ok {
			s.Redefine(def)
		}
	}
	w.facts.problems = slices.Concat(problems, w.opened)
	w.facts.report, w.facts.generation = def.Report, t.device.Generation
	w.status.interval.Store(int64(max(w.host.interval, def.Report.Interval)))
	if !w.fenced {
		if !t.origin.recorded(w.memory.Origin) {
			w.remember = true
		}
		w.memory.Origin = t.origin
		if t.model != nil { // without it nothing can be said of the desired values
			w.want(desired, t.origin.Version)
		}
	}
	if w.remember {
		w.workAt = time.Now()
	}
	w.checkAt = time.Now()
	w.announce()
	w.changed()
}

// load reads what was recorded of the device. Without it a value might be written
// twice, so that it is tried as often as it takes.
func (w *worker) load(ctx context.Context) bool {
	if w.loaded {
		return true
	}
	if time.Now().Before(w.loadAt) {
		return false
	}
	m, l, err := w.recall(ctx)
	if ctx.Err() != nil {
		return false // it ends: what was not read is no news
	}
	if err != nil {
		w.log.Warn("state not readable", zap.Error(err))
		w.loadAt = time.Now().Add(w.retryWait)
		w.retryWait = min(2*w.retryWait, sinkRetryMax)
		return false
	}
	w.memory, w.ledger, w.loaded, w.retryWait = m, l, true, writeRetry
	w.facts.wishes = m.Wishes
	if m.LastOnline > 0 {
		w.facts.lastOnline = time.UnixMilli(m.LastOnline)
	}
	open, segments := w.ledger.interrupted()
	w.interrupted = segments
	for _, r := range open {
		for _, p := range sortedKeys(r.Properties) {
			w.auditCommand(r.ID, r.Method, p, r.Properties[p], PropertyResult{Ack: Failed, Reason: ReasonUnknown, Message: "interrupted by a restart"})
		}
	}
	return true
}

// saveInterrupted saves that commands were interrupted, after the sink has stored it:
// else the next start finds them open and tells it again.
func (w *worker) saveInterrupted(ctx context.Context) {
	if len(w.interrupted) == 0 || w.outbox.records() > 0 {
		return
	}
	for _, i := range w.interrupted {
		if err := w.ledger.saveSegment(ctx, w.host.state, w.device, i); err != nil {
			w.log.Warn("interrupted commands not recorded", zap.Error(err))
			return
		}
	}
	w.interrupted = nil
}

// recall reads memory and ledger. What is unreadable for good is left behind: desired
// values are compared with the device before they are written, so that going on
// without the record is the smaller harm.
func (w *worker) recall(ctx context.Context) (memory, ledger, error) {
	m, err := load(ctx, w.host.state, w.device)
	if err != nil && !errors.Is(err, errCorrupt) {
		return m, ledger{}, err
	}
	if err != nil {
		w.log.Error("state unreadable, going on without", zap.Error(err))
	}
	l, err := loadLedger(ctx, w.host.state, w.device, m.Segments)
	if err != nil && !errors.Is(err, errCorrupt) {
		return m, l, err
	}
	if err != nil {
		w.log.Error("commands unreadable, going on without", zap.Error(err))
	}
	m.Segments = l.stored
	return m, l, nil
}

// save records the memory.
func (w *worker) save(ctx context.Context) error {
	w.memory.UID, w.memory.Wishes = w.device.UID, w.facts.wishes
	w.memory.LastOnline = unixMilli(w.facts.lastOnline)
	if err := w.memory.save(ctx, w.host.state, w.device); err != nil {
		return err
	}
	w.remember = false
	return nil
}
