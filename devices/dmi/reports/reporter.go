package reports

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/petiole-io/petiole/devices"
)

// ReasonSilent is why a device is unreachable whose reports have stopped.
const ReasonSilent = "Silent"

const silentMessage = "the mapper no longer reports any value of the device"

// Queued bounds the reports of a device that wait for its worker.
const Queued = 64

// errQueueFull reports that the device's queue is full.
var errQueueFull = errors.New("the device's queue is full")

// Reporter delivers the reports of a mapper about one device, in order, and the device's
// reachability.
type Reporter struct {
	history
	device      devices.Ref
	unreachable func() (reason, message string)
	silence     time.Duration
	patience    time.Duration
	queue       chan Report
	check       <-chan struct{} // the result of unreachable may have changed
	reachable   atomic.Bool     // as last delivered

	// What is below belongs to the goroutine of Run.
	deliver func(devices.Batch)
	// trouble is the last reported reason why the device is unreachable.
	trouble string
	// state is the last state that the mapper reported.
	state stateReport
	// silenced is set after the reports have stopped, until there is a value again.
	silenced bool
	// lost is when all values were last reported bad.
	lost time.Time
}

// New returns the reporter of a device. Unreachable returns why the device cannot be operated
// now, an empty reason if it can; check receives when that may have changed. A device is silent without the reports that used to come for
// at least the time silence; a report waits for the time patience for room in the queue.
func New(device devices.Ref, points []devices.Point, silence, patience time.Duration, unreachable func() (reason, message string), check <-chan struct{}) *Reporter {
	return &Reporter{
		history: newHistory(points), device: device, unreachable: unreachable, silence: silence, patience: patience,
		queue: make(chan Report, Queued), check: check,
	}
}

// Enqueue queues a report. It fails if the queue stays full.
func (t *Reporter) Enqueue(ctx context.Context, r Report) error {
	select {
	case t.queue <- r:
		return nil
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, t.patience)
	defer cancel()
	select {
	case t.queue <- r:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("report of %s: %w", t.device, errQueueFull)
	}
}

// Run delivers until ctx ends.
func (t *Reporter) Run(ctx context.Context, deliver func(devices.Batch)) {
	t.deliver = func(b devices.Batch) {
		t.reachable.Store(b.Reachable)
		deliver(b)
	}
	tick := time.NewTicker(t.silence / 4)
	defer tick.Stop()
	t.checkMapper()
	for {
		select {
		case <-ctx.Done():
			return
		case r := <-t.queue:
			t.report(r)
		case <-t.check:
			t.checkMapper()
		case <-tick.C:
			t.checkSilence(time.Now())
		}
	}
}

// Reachable reports whether the device was last reported as responding.
func (t *Reporter) Reachable() bool { return t.reachable.Load() }

// checkMapper reports the device as unreachable if its mapper is.
func (t *Reporter) checkMapper() {
	reason, message := t.unreachable()
	if reason == t.trouble {
		return
	}
	t.trouble = reason
	if reason != "" {
		t.state = stateReport{} // the state that the mapper reported no longer applies
		t.reportUnreachable(reason, message, time.Now())
	}
}

// report delivers a report of the mapper. Values do not make an unreachable device reachable.
func (t *Reporter) report(r Report) {
	t.checkMapper() // the report may be the first of a mapper
	r.at = time.Now()
	for i := range r.readings {
		at := &r.readings[i].Time
		switch {
		case at.IsZero():
			*at = r.at
		case at.Before(t.lost) && t.trouble == "": // the mapper has returned and has no newer reading yet
			*at = t.lost
		}
	}
	if r.state != "" {
		t.reportState(r)
		return
	}
	t.record(r)
	if len(r.readings) == 0 {
		return
	}
	if slices.ContainsFunc(r.readings, func(x devices.Reading) bool { return x.Quality != devices.Bad }) {
		t.silenced = false
	}
	b := t.state.batch(r.at)
	if t.silenced {
		b.Reachable, b.Degraded, b.Reason, b.Message = false, false, ReasonSilent, silentMessage
	}
	if t.trouble != "" {
		b.Reachable, b.Degraded, b.Reason = false, false, t.trouble
	}
	b.Readings = r.readings
	t.deliver(b)
}

func (t *Reporter) reportState(r Report) {
	c := stateReportOf(r.state)
	if t.trouble != "" {
		return
	}
	was := t.state
	t.state = c
	switch {
	case !c.unreachable && t.silenced: // KubeEdge's mappers report "ok" whatever they can read
	case !c.unreachable:
		t.deliver(c.batch(r.at))
	case c != was:
		t.reportUnreachable(c.reason, c.message, r.at)
	}
}

// reportUnreachable reports that the device is unreachable and all its values are bad.
func (t *Reporter) reportUnreachable(reason, message string, at time.Time) {
	t.lost = at
	b := devices.Batch{Reason: reason, Message: message, Time: at}
	for i := range t.points {
		b.Readings = append(b.Readings, devices.Reading{Point: i, Quality: devices.Bad, Reason: reason, Time: at})
	}
	t.deliver(b)
}

// checkSilence makes a device unreachable whose reports have stopped. KubeEdge's mappers
// report every value that they can read, changed or not, and nothing for one that they
// cannot.
func (t *Reporter) checkSilence(now time.Time) {
	if t.trouble == "" && !t.state.unreachable && t.silent(now, t.silence) {
		t.state, t.silenced = stateReport{}, true
		t.reportUnreachable(ReasonSilent, silentMessage, now)
	}
}
