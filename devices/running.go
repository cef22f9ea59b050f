package devices

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// replace ends the session and starts the one for a definition. The new one starts
// first, so that a connection which both use stays open.
func (w *worker) replace(ctx context.Context, def Definition, problems []Problem) []Problem {
	old := w.session
	w.session = nil
	session, more, state := w.open(def, problems)
	w.adopt(def)
	w.facts.health = state
	w.retryAt = time.Now() // what waited may be possible now
	if session != nil {
		number := uint64(1)
		if old != nil {
			number = old.number + 1
		}
		w.start(ctx, number, session)
	}
	if old != nil {
		old.cancel()
		<-old.done
	}
	return more
}

func (w *worker) open(def Definition, problems []Problem) (Session, []Problem, health) {
	for _, p := range problems {
		if p.Property != "" {
			continue
		}
		if p.Reason == ReasonWaitingForModel {
			return nil, nil, health{v1beta1.StateUnknown, p.Reason, p.Message}
		}
		return nil, nil, health{v1beta1.StateUnhealthy, p.Reason, p.Message}
	}
	driver := w.host.driver(def.Protocol)
	if driver == nil {
		p := Problem{Reason: ReasonUnknownProtocol, Message: fmt.Sprintf("no driver for protocol %q", def.Protocol)}
		return nil, []Problem{p}, health{v1beta1.StateUnhealthy, p.Reason, p.Message}
	}
	session, more, err := driver.Open(def)
	if err != nil {
		p := Problem{Reason: ReasonInvalidProtocol, Message: err.Error()}
		return nil, append(more, p), health{v1beta1.StateUnhealthy, p.Reason, p.Message}
	}
	return session, more, health{v1beta1.StateUnknown, ReasonConnecting, ""}
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

func (w *worker) start(parent context.Context, number uint64, s Session) {
	ctx, cancel := context.WithCancel(parent)
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
		if err != nil && ctx.Err() == nil {
			w.log.Error("session ended", zap.Error(err))
		}
	}()
}

func (w *worker) stopSession() {
	if w.session != nil {
		w.session.cancel()
		<-w.session.done
		w.session = nil
	}
}
