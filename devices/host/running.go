package host

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/devices"
)

// replaceSession ends the session and starts one for a new definition. The new one starts
// first, so that a connection that both use stays open.
func (w *worker) replaceSession(ctx context.Context, def devices.Definition, problems []devices.Problem) []devices.Problem {
	old := w.session
	w.session = nil
	session, more := w.openSession(def, problems)
	w.setDefinition(def)
	w.clearFaults()
	w.unreachable = 0
	w.setHealth(initialHealth(def, append(more, problems...)))
	w.desired.retry() // writes that waited may be possible now
	w.reopenAt = time.Time{}
	w.reopenBackoff.Reset()
	if session != nil {
		w.startSession(ctx, session)
	} else {
		w.makeAllUncertain(w.facts.health.reason, time.Now())
	}
	if old != nil {
		old.cancel()
		<-old.done
	}
	return more
}

// openSession opens a session for a definition. It returns nil if that fails, or if the
// device must not be operated.
func (w *worker) openSession(def devices.Definition, problems []devices.Problem) (devices.Session, []devices.Problem) {
	if initialHealth(def, problems).reason != devices.ReasonConnecting {
		return nil, nil
	}
	driver := w.host.driver(def.Protocol)
	if driver == nil {
		return nil, []devices.Problem{{Reason: devices.ReasonUnknownProtocol, Message: fmt.Sprintf("no driver for protocol %q", def.Protocol)}}
	}
	session, more, err := driver.Open(def)
	if err != nil {
		return nil, append(more, devices.Problem{Reason: devices.ReasonInvalidProtocol, Message: err.Error()})
	}
	return session, more
}

// setDefinition takes over a definition. Points that stay keep their twins.
func (w *worker) setDefinition(def devices.Definition) {
	known := make(map[string]twin, len(w.facts.points))
	for i, p := range w.facts.points {
		known[p.Name] = w.facts.twins[i]
	}
	w.def, w.facts.points, w.facts.twins = def, def.Points, make([]twin, len(def.Points))
	for i, p := range def.Points {
		w.facts.twins[i] = known[p.Name]
	}
}

func (w *worker) startSession(parent context.Context, s devices.Session) {
	ctx, cancel := context.WithCancel(parent)
	w.sessions++
	number := w.sessions
	r := &runningSession{number: number, session: s, cancel: cancel, done: make(chan struct{})}
	w.session = r
	go func() {
		defer close(r.done)
		err := s.Run(ctx, func(b devices.Batch) {
			select {
			case w.batches <- sessionBatch{number, b}:
			case <-ctx.Done():
			}
		})
		select {
		case w.sessionEnds <- sessionEnd{number, err}:
		case <-ctx.Done():
		}
	}()
}

// handleSessionEnd handles a session that ended by itself. It is opened again after a pause
// that doubles until the device responds.
func (w *worker) handleSessionEnd(e sessionEnd, now time.Time) {
	if w.session == nil || w.session.number != e.number {
		return
	}
	message := "the driver ended the session without an error"
	if e.err != nil {
		message = e.err.Error()
	}
	w.log.Error("session ended", zap.String("message", message))
	w.stopSession()
	w.reopenAt = now.Add(w.reopenBackoff.Next())
	if w.updateHealth(devices.Batch{Reason: devices.ReasonSessionEnded, Message: message, Time: now}, now) {
		w.changed()
	}
}

// reopenSession opens a session again after it ended by itself.
func (w *worker) reopenSession(ctx context.Context) {
	w.reopenAt = time.Time{}
	session, problems := w.openSession(w.def, nil)
	if session == nil {
		w.openProblems = problems
		w.setHealth(initialHealth(w.def, problems))
		w.changed()
		return
	}
	w.startSession(ctx, session)
	w.desired.schedule(time.Now())
}

func (w *worker) stopSession() {
	if w.session != nil {
		w.session.cancel()
		<-w.session.done
		w.session = nil
	}
}
