package host

import (
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/internal/stats"
	"github.com/petiole-io/petiole/devices/internal/twin"
	"github.com/petiole-io/petiole/devices/internal/wallclock"
)

// observer keeps what is known of a device, from the batches of its sessions, and passes on
// samples, events and changes of its health.
type observer struct {
	facts    *twin.Device
	clock    wallclock.Clock
	records  recorder
	counters *stats.Counters
	log      *zap.Logger
	status   *statusReporter
	saved    *savedDevice
	desired  *desiredWriter

	reportedProblems string // the problems that were reported as events
}

// enter and leave count the device by its state while it is operated.
func (o *observer) enter() { o.counters.MoveDevice("", o.facts.Health.State) }
func (o *observer) leave() { o.counters.MoveDevice(o.facts.Health.State, "") }

// observe handles a batch of readings.
func (o *observer) observe(b devices.Batch) {
	now := time.Now()
	b.Time = twin.NotFuture(b.Time, now)
	if o.facts.HasOlder(b) && o.clock.SetBack(now) {
		o.records.StartEpoch()
		o.facts.StartEpoch()
		o.log.Warn("clock was set back, new epoch of samples started")
	}
	o.counters.Readings.Add(uint64(len(b.Readings)))
	is := o.facts.Observe(b, now)
	o.counters.Late.Add(uint64(is.Late))
	if !is.CheckAt.IsZero() {
		o.status.scheduleCheck(is.CheckAt)
	}
	changed := is.Changed
	for _, point := range is.Compare {
		changed = o.desired.compare(point, now) || changed
	}
	if len(is.Samples) > 0 {
		o.records.Samples(is.Samples)
	}
	if o.updateHealth(b, now) || changed {
		o.status.changed()
	}
}

// updateHealth updates the device's state after a batch, and reports whether it changed.
func (o *observer) updateHealth(b devices.Batch, now time.Time) bool {
	was, changed := o.facts.UpdateHealth(b, now)
	if !changed {
		return false
	}
	is := o.facts.Health
	o.counters.MoveDevice(was.State, is.State)
	switch {
	case !is.Answers() && was.State != is.State:
		o.log.Warn("device offline", zap.String("reason", is.Reason), zap.String("message", is.Message))
		o.records.Event(devices.EventWarning, devices.ReasonOffline, is.Reason+": "+is.Message)
		o.saved.changed = true // the time it was last online
		o.desired.schedule(now)
	case !is.Answers():
	case !was.Answers():
		o.log.Info("device online")
		o.records.Event(devices.EventNormal, devices.ReasonOnline, "the device responds")
		o.desired.returned(was.State == v1beta1.StateOffline)
	case is.State == devices.StateDegraded:
		o.records.Event(devices.EventWarning, is.Reason, o.facts.Message())
	default:
		o.records.Event(devices.EventNormal, devices.ReasonOnline, "all properties can be read")
	}
	return true
}

// sessionEnded makes the device offline after its session ended by itself.
func (o *observer) sessionEnded(message string, now time.Time) {
	o.log.Error("session ended", zap.String("message", message))
	if o.updateHealth(devices.Batch{Reason: devices.ReasonSessionEnded, Message: message, Time: now}, now) {
		o.status.changed()
	}
}

// restart takes over a definition for which a new session was opened, with all problems.
func (o *observer) restart(def devices.Definition, problems []devices.Problem) {
	was := o.facts.Health.State
	o.facts.Restart(def, problems)
	o.counters.MoveDevice(was, o.facts.Health.State)
}

// reopenFailed takes over the problems of a session that could not be opened again.
func (o *observer) reopenFailed(problems []devices.Problem) {
	o.restart(o.facts.Definition, problems)
	o.status.changed()
}

// setProblems takes over the problems of the definition. It logs them and emits events for
// them if they have changed.
func (o *observer) setProblems(problems ...[]devices.Problem) {
	o.facts.Problems = slices.Concat(problems...)
	text := fmt.Sprint(o.facts.Problems)
	if len(o.facts.Problems) == 0 {
		text = ""
	}
	if text == o.reportedProblems {
		return
	}
	o.reportedProblems = text
	for _, p := range o.facts.Problems {
		message := p.Message
		if p.Property != "" {
			message = "property " + p.Property + ": " + message
		}
		o.log.Warn("device definition has a problem", zap.String("reason", p.Reason), zap.String("message", message))
		o.records.Event(devices.EventWarning, p.Reason, message)
	}
}
