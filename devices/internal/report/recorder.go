package report

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/internal/stats"
	"github.com/petiole-io/petiole/internal/logonce"
)

// Clock numbers the epochs of records, and marks those whose times are not by a clock that is right.
type Clock interface {
	// NextEpoch returns a number that was never returned before, also by an earlier process.
	NextEpoch() int64
	// Mark returns the mark of the records of now, nil if the clock is right. It returns the same
	// mark until the clock is set.
	Mark() *devices.ClockMark
	// Until returns the time that is left until a time by the right clock. If it is not known it
	// returns false, and what is left by the wall clock, or 0 if that is not set.
	Until(t time.Time) (left time.Duration, known bool)
}

// Recorder numbers the samples, audits and events of one device and queues them for the
// sink. Its methods, except Run, are called by one goroutine.
type Recorder struct {
	device   devices.Ref
	node     string
	counters *stats.Counters
	outbox   *outbox
	limiter  eventLimiter
	clock    Clock

	epoch    int64
	sequence uint64
	audits   uint64
}

// NewRecorder returns the Recorder of a device of a node, whose samples wait in room, and which gathers samples for an interval, or
// passes on each at once if it is 0. It starts nothing.
func NewRecorder(device devices.Ref, node string, clock Clock, sink devices.Sink, room *Room, gather time.Duration, counters *stats.Counters, failures *logonce.Reporter, log *zap.Logger) *Recorder {
	return &Recorder{
		clock: clock, device: device, node: node, counters: counters, outbox: newOutbox(sink, room, gather, counters, failures, log), limiter: newEventLimiter(time.Now()),
	}
}

// Run stores what is queued until ctx ends, and then for a short time the rest.
func (r *Recorder) Run(ctx context.Context) { r.outbox.run(ctx) }

// Unstored returns the number of audits and events that the sink has not stored.
func (r *Recorder) Unstored() int { return r.outbox.records() }

// StartEpoch starts an epoch, the first one or that after the wall clock was set back: the
// times of later samples may be before those of earlier ones.
func (r *Recorder) StartEpoch() {
	r.epoch, r.sequence, r.audits = r.clock.NextEpoch(), 0, 0
}

// Samples numbers a batch of samples and queues it.
func (r *Recorder) Samples(samples []devices.Sample) {
	mark := r.clock.Mark()
	if r.outbox.join(r.epoch, mark, samples) {
		return
	}
	r.sequence++
	record := &devices.Samples{Device: r.device, Node: r.node, RecordNumber: devices.RecordNumber{Epoch: r.epoch, Sequence: r.sequence}, Clock: mark, Samples: samples}
	if r.outbox.gather == 0 {
		r.outbox.put(record)
	} else {
		r.outbox.begin(record)
	}
}

// Audit numbers an audit and queues it.
func (r *Recorder) Audit(a *devices.Audit) {
	r.audits++
	a.Device, a.Node, a.Epoch, a.Sequence, a.Time, a.Clock = r.device, r.node, r.epoch, r.audits, time.Now().UnixMilli(), r.clock.Mark()
	r.outbox.put(a)
}

// Event emits an event, unless the device had too many. Nothing is lost with it: the status,
// the log or an audit has the same information.
func (r *Recorder) Event(typ, reason, message string) {
	now := time.Now()
	skipped, ok := r.limiter.allow(now)
	if !ok {
		r.counters.Suppressed.Add(1)
		return
	}
	if skipped > 0 {
		message += fmt.Sprintf(" (%d events before this one were suppressed)", skipped)
	}
	r.counters.Events.Add(1)
	r.outbox.put(&devices.Event{Device: r.device, Node: r.node, Type: typ, Reason: reason, Message: message, Time: now.UnixMilli()})
}
