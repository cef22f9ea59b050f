package host

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/internal/backoff"
	"github.com/petiole-io/petiole/devices/internal/report"
	"github.com/petiole-io/petiole/devices/internal/twin"
	"github.com/petiole-io/petiole/devices/internal/wallclock"
	"github.com/petiole-io/petiole/internal/logonce"
)

const (
	writeRetry = time.Second
	// loadRetryMax is the longest time between two attempts to load the saved state.
	loadRetryMax = 10 * time.Second
	// writeRetryMax is the longest time between two attempts to write to an unreachable
	// device.
	writeRetryMax = 30 * time.Second
	// unknownTimePoll is the time after which it is looked again whether the time is known.
	unknownTimePoll = 10 * time.Second
	// writeLimit is the timeout of a write of a desired value.
	writeLimit = 15 * time.Second
)

// target is a device to operate, with its model.
type target struct {
	device *v1beta1.Device
	model  *v1beta1.DeviceModel
	origin origin
}

// worker operates one device. What is below requests belongs to the goroutine of run.
type worker struct {
	device  devices.Ref
	targets chan target // has room for one: the newest replaces an older one
	ended   chan struct{}
	stopped chan struct{}
	// deleteErr is why the saved state of a deleted device still exists. It may be read after
	// stopped is closed.
	deleteErr error

	// requests are received commands.
	requests chan *request

	records  recorder
	target   *target // is reconciled once the saved state is loaded
	facts    *twin.Device
	saved    *savedDevice
	status   *statusReporter
	sessions *sessions
	observer *observer
	desired  *desiredWriter
	commands *executor
}

// recorder takes what a device reports besides its status.
type recorder interface {
	StartEpoch()
	Samples(samples []devices.Sample)
	Audit(a *devices.Audit)
	Event(typ, reason, message string)
	// Unstored returns the number of audits and events that the sink has not stored.
	Unstored() int
	// Run stores what is taken until ctx ends, and then for a short time the rest.
	Run(ctx context.Context)
}

func newWorker(h *Host, ref devices.Ref) *worker {
	log := h.log.With(zap.String("device", ref.String()))
	failures := logonce.New(log)
	return assemble(h, ref, report.NewRecorder(ref, h.node, h.clock, h.sink, &h.room, h.gather, h.counters, failures, log), failures, log)
}

// assemble connects the parts of a worker.
func assemble(h *Host, ref devices.Ref, records recorder, failures *logonce.Reporter, log *zap.Logger) *worker {
	w := &worker{
		device: ref, records: records, facts: twin.New(ref, h.node),
		targets: make(chan target, 1), ended: make(chan struct{}), stopped: make(chan struct{}), requests: make(chan *request, 1),
		sessions: newSessions(h.driver),
	}
	w.saved = &savedDevice{state: h.state, facts: w.facts, log: log, backoff: backoff.Backoff{First: writeRetry, Max: loadRetryMax}}
	w.status = &statusReporter{
		facts: w.facts, sink: h.sink, log: log, interval: h.interval, writer: report.NewStatusWriter(h.sink, ref, h.interval, h.gather, h.counters, failures),
	}
	w.desired = &desiredWriter{
		facts: w.facts, sessions: w.sessions, saved: w.saved, status: w.status, counters: h.counters, records: records, log: log,
		backoff: backoff.Backoff{First: writeRetry, Max: writeRetryMax}, clock: wallclock.New(), until: h.clock.Until,
	}
	w.commands = &executor{facts: w.facts, sessions: w.sessions, saved: w.saved, counters: h.counters, records: records, log: log}
	w.observer = &observer{facts: w.facts, clock: wallclock.New(), records: records, counters: h.counters, log: log, status: w.status, saved: w.saved, desired: w.desired}
	w.facts.Points = h.points.User()
	w.observer.enter()
	return w
}

// assign sets the newest target of the worker. It does not block, and belongs to one goroutine.
func (w *worker) assign(t target) {
	select {
	case <-w.targets:
	default:
	}
	w.targets <- t
}

// end stops the worker and deletes the saved state of the device. It may be called once.
func (w *worker) end() { close(w.ended) }

// wait blocks until a worker that was ended has stopped, or ctx ends. It returns an error if
// the saved state could not be deleted.
func (w *worker) wait(ctx context.Context) error {
	select {
	case <-w.stopped:
		return w.deleteErr
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run operates the device until ctx or the worker ends. It starts after the channel, if any,
// is closed.
func (w *worker) run(parent context.Context, after <-chan struct{}) {
	defer close(w.stopped)
	if after != nil {
		<-after
	}
	ctx, cancel := context.WithCancel(parent)
	// The recorder outlives ctx, to take the result of a write that still runs.
	recording, stopRecording := context.WithCancel(context.WithoutCancel(parent))
	var wg sync.WaitGroup
	wg.Go(func() { w.records.Run(recording) })
	left := false
	wg.Go(func() { left = w.status.writer.Run(ctx) })
	w.records.StartEpoch()
	w.loop(ctx)
	w.sessions.stop()
	w.abandon(context.WithoutCancel(ctx))
	cancel()
	stopRecording()
	wg.Wait()
	w.saveAndReport(parent, left)
	w.observer.leave()
	w.facts.Points.Release()
}

// saveAndReport saves the state and the last status after the worker has stopped. The state
// of a deleted device is deleted instead.
func (w *worker) saveAndReport(parent context.Context, statusLeft bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(parent), report.StopTimeout)
	defer cancel()
	select {
	case <-w.ended:
		w.deleteErr = w.saved.delete(ctx)
		return
	default:
	}
	w.saved.finish(ctx)
	w.status.finish(ctx, statusLeft)
}

// loop runs what is due and waits for the next input or time.
func (w *worker) loop(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		w.advance(ctx)
		timer.Reset(w.idle(time.Now()))
		select {
		case <-ctx.Done():
			return
		case <-w.ended:
			return
		case t := <-w.targets:
			w.target = &t
		case a := <-w.sessions.batches:
			w.handleBatch(a)
		case e := <-w.sessions.ends:
			now := time.Now()
			if message, current := w.sessions.ended(e, now); current {
				w.observer.sessionEnded(message, now)
			}
		case r := <-w.sessions.results:
			w.handleWriteResult(ctx, r)
		case r := <-w.requests:
			w.commands.enqueue(r)
		case <-w.status.ready():
			w.status.send(time.Now())
		case <-timer.C:
		}
	}
}

// handleBatch handles a batch, unless it is of an earlier session.
func (w *worker) handleBatch(a sessionBatch) {
	if a.session != w.sessions.number() {
		return
	}
	if a.batch.Reachable {
		w.sessions.backoff.Reset()
	}
	w.observer.observe(a.batch)
}

// advance runs everything that is due.
func (w *worker) advance(ctx context.Context) {
	if w.target != nil && w.saved.load(ctx, w.commands.start) {
		t := *w.target
		w.target = nil
		w.status.restore(ctx)
		w.reconcile(ctx, t)
	}
	now := time.Now()
	followClock(w.desired, now)
	if at := w.status.checkAt; !at.IsZero() && !now.Before(at) {
		w.status.check(now)
	}
	if at := w.sessions.reopenAt; !at.IsZero() && !now.Before(at) {
		w.reopenSession(ctx)
	}
	w.commands.saveInterrupted(ctx)
	w.work(ctx)
}

// idle returns the time until something is due.
func (w *worker) idle(now time.Time) time.Duration {
	next := now.Add(time.Hour)
	sooner := func(t time.Time) {
		if !t.IsZero() && t.Before(next) {
			next = t
		}
	}
	sooner(w.status.checkAt)
	sooner(w.sessions.reopenAt)
	if w.target != nil {
		sooner(w.saved.loadAt)
	}
	sooner(w.commands.due(now))
	if !w.sessions.writing {
		sooner(w.desired.workAt)
	}
	return max(next.Sub(now), 0)
}

// work starts the next write that is due: that of a command or, after saving the state, of a
// desired value. At most one write runs at a time, outside of the worker's goroutine.
func (w *worker) work(ctx context.Context) {
	w.commands.expire(time.Now(), w.saved.loaded)
	if w.sessions.writing || !w.saved.loaded {
		return
	}
	// While there is a target, the newest definition has not been reconciled yet.
	if w.target == nil && w.commands.advance(ctx) {
		return
	}
	now := time.Now()
	if !w.desired.isDue(now) {
		return
	}
	if w.saved.changed {
		// Save before the write, so that a restart finds that it may have happened.
		if err := w.saved.save(ctx); err != nil {
			w.desired.postpone(err)
			return
		}
	}
	if !w.desired.advance(ctx, now) && w.saved.changed {
		w.desired.schedule(now) // a value was concluded without a write
	}
}

// handleWriteResult handles the result of a write.
func (w *worker) handleWriteResult(ctx context.Context, r writeResult) {
	w.sessions.writing = false
	replaced := ctx.Err() != nil || w.sessions.number() != r.session
	if r.execution != nil {
		w.commands.written(r, replaced)
		w.status.changed()
		return
	}
	w.desired.written(r, replaced)
}

// abandon ends writes and commands when the worker stops. It waits for the write that runs,
// and fails the commands that are left.
func (w *worker) abandon(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, report.StopTimeout)
	defer cancel()
	if w.sessions.writing {
		w.handleWriteResult(ctx, <-w.sessions.results)
	}
	w.commands.stop(ctx, w.requests)
}
