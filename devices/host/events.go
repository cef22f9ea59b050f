package host

import (
	"fmt"
	"time"

	"github.com/petiole-io/petiole/devices"
	"go.uber.org/zap"
)

const (
	// A device may emit eventBurst events at once, and one more every eventRefill.
	eventBurst  = 10
	eventRefill = 10 * time.Second
)

// eventLimiter bounds the events of one device with a token bucket.
type eventLimiter struct {
	tokens  float64
	at      time.Time
	skipped int
}

func newEventLimiter(now time.Time) eventLimiter { return eventLimiter{tokens: eventBurst, at: now} }

// allow reports whether an event may be emitted now, and how many were skipped since the
// last one.
func (q *eventLimiter) allow(now time.Time) (skipped int, ok bool) {
	q.tokens = min(eventBurst, q.tokens+max(now.Sub(q.at).Seconds(), 0)/eventRefill.Seconds())
	q.at = now
	if q.tokens < 1 {
		q.skipped++
		return 0, false
	}
	skipped, q.skipped = q.skipped, 0
	q.tokens--
	return skipped, true
}

// event emits an event, unless the device had too many. Nothing is lost with it: the status,
// the log or an audit has the same information.
func (w *worker) event(typ, reason, message string) {
	now := time.Now()
	skipped, ok := w.eventLimiter.allow(now)
	if !ok {
		w.host.counters.suppressed.Add(1)
		return
	}
	if skipped > 0 {
		message += fmt.Sprintf(" (%d events before this one were suppressed)", skipped)
	}
	w.host.counters.events.Add(1)
	w.outbox.put(&devices.Event{Device: w.device, Node: w.host.node, Type: typ, Reason: reason, Message: message, Time: now.UnixMilli()})
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
		w.event(devices.EventWarning, p.Reason, message)
	}
}
