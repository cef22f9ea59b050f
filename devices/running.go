package devices

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"
)

// replace ends the session and starts the one for a definition. The new one starts
// first, so that a connection which both use stays open.
func (w *worker) replace(ctx context.Context, def Definition, problems []Problem) []Problem {
	old := w.session
	w.session = nil
	session, more := w.open(def, problems)
	w.adopt(def)
	w.forgetFaults()
	w.misses = 0
	w.setHealth(judge(def, append(more, problems...)))
	w.workAt, w.calmUntil = time.Now(), time.Time{} // what waited may be possible now
	w.reopenAt, w.reopenWait = time.Time{}, writeRetry
	if session != nil {
		w.start(ctx, session)
	} else {
		w.doubtAll(w.facts.health.reason, time.Now())
	}
	if old != nil {
		old.cancel()
		<-old.done
	}
	return more
}

// open makes the session of a definition; nil when there is none to be had, or the
// device is not to be operated.
func (w *worker) open(def Definition, problems []Problem) (Session, []Problem) {
	if judge(def, problems).reason != ReasonConnecting {
		return nil, nil
	}
	driver := w.host.driver(def.Protocol)
	if driver == nil {
		return nil, []Problem{{Reason: ReasonUnknownProtocol, Message: fmt.Sprintf("no driver for protocol %q", def.Protocol)}}
	}
	session, more, err := driver.Open(def)
	if err != nil {
		return nil, append(more, Problem{Reason: ReasonInvalidProtocol, Message: err.Error()})
	}
	return session, more
}

// adopt takes over a definition's points; the twins of points that stay are kept.
func (w *worker) adopt(def Definition) {
	known := make(map[string]twin, len(w.facts.points))
	for i, p := range w.facts.points {
		known[p.Name] = w.facts.twins[i]
	}
	w.def, w.facts.points, w.facts.twins = def, def.Points, make([]twin, len(def.Points))
	for i, p := range def.Points {
		w.facts.twins[i] = known[p.Name]
	}
}

func (w *worker) start(parent context.Context, s Session) {
	ctx, cancel := context.WithCancel(parent)
	w.sessions++
	number := w.sessions
	r := &running{number: number, session: s, cancel: cancel, done: make(chan struct{})}
	w.session = r
	go func() {
		defer close(r.done)
		err := s.Run(ctx, func(b Batch) {
			select {
			case w.batches <- arrival{number, b}:
			case <-ctx.Done():
			}
		})
		select {
		case w.over <- sessionEnd{number, err}:
		case <-ctx.Done():
		}
	}()
}

// sessionOver takes note that a session ended by itself. It is opened again after a
// pause that doubles until the device answers.
func (w *worker) sessionOver(e sessionEnd, now time.Time) {
	if w.session == nil || w.session.number != e.number {
		return
	}
	message := "the driver gave up"
	if e.err != nil {
		message = e.err.Error()
	}
	w.log.Error("session ended", zap.String("message", message))
	w.stopSession()
	w.reopenAt = now.Add(w.reopenWait)
	w.reopenWait = min(2*w.reopenWait, writeRetryMax)
	if w.reach(Batch{Reason: ReasonSessionEnded, Message: message, Time: now}, now) {
		w.changed()
	}
}

// reopen opens the session again that ended by itself.
func (w *worker) reopen(ctx context.Context) {
	w.reopenAt = time.Time{}
	session, problems := w.open(w.def, nil)
	if session == nil {
		w.opened = problems
		w.setHealth(judge(w.def, problems))
		w.changed()
		return
	}
	w.start(ctx, session)
	w.workAt = time.Now()
}

func (w *worker) stopSession() {
	if w.session != nil {
		w.session.cancel()
		<-w.session.done
		w.session = nil
	}
}
