package devices

import (
	"fmt"
	"time"

	"go.uber.org/zap"
)

const (
	// A device may have eventBurst events at once, and one more each eventRefill.
	eventBurst  = 10
	eventRefill = 10 * time.Second
)

// quota bounds the events of one device.
type quota struct {
	left    float64
	at      time.Time
	skipped int
}

func newQuota(now time.Time) quota { return quota{left: eventBurst, at: now} }

// take tells whether an event may be told now, and how many could not be since the
// last one.
func (q *quota) take(now time.Time) (skipped int, ok bool) {
	q.left = min(eventBurst, q.left+max(now.Sub(q.at).Seconds(), 0)/eventRefill.Seconds())
	q.at = now
	if q.left < 1 {
		q.skipped++
		return 0, false
	}
	skipped, q.skipped = q.skipped, 0
	q.left--
	return skipped, true
}

// event tells an operator something, unless the device had too many events: what an
// event says is in the status, the log or the audit too.
func (w *worker) event(typ, reason, message string) {
	now := time.Now()
	skipped, ok := w.quota.take(now)
	if !ok {
		w.host.meters.suppressed.Add(1)
		return
	}
	if skipped > 0 {
		message += fmt.Sprintf(" (%d events before this one were left out)", skipped)
	}
	w.host.meters.events.Add(1)
	w.outbox.put(&Event{Device: w.device, Node: w.host.node, Type: typ, Reason: reason, Message: message, Time: now.UnixMilli()})
}

// announce tells the problems, when they are others than were told before.
func (w *worker) announce() {
	text := fmt.Sprint(w.facts.problems)
	if len(w.facts.problems) == 0 {
		text = ""
	}
	if text == w.announced {
		return
	}
	w.announced = text
	for _, p := range w.facts.problems {
		message := p.Message
		if p.Property != "" {
			message = "property " + p.Property + ": " + message
		}
		w.log.Warn("device definition has a problem", zap.String("reason", p.Reason), zap.String("message", message))
		w.event(EventWarning, p.Reason, message)
	}
}
