package host

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/internal/backoff"
	"github.com/petiole-io/petiole/devices/internal/desired"
	"github.com/petiole-io/petiole/devices/internal/report"
	"github.com/petiole-io/petiole/internal/logonce"
)

const (
	// batchQueue is the number of batches that a session may be ahead of its worker.
	batchQueue = 16
	writeRetry = time.Second
	// loadRetryMax is the longest time between two attempts to load the saved state.
	loadRetryMax = 10 * time.Second
	// writeRetryMax is the longest time between two attempts to write to an unreachable
	// device.
	writeRetryMax = 30 * time.Second
	// writeLimit is the timeout of a write of a desired value.
	writeLimit = 15 * time.Second
)

// target is a device to operate, with its model.
type target struct {
	device *v1beta1.Device
	model  *v1beta1.DeviceModel
	origin origin
}

// worker operates one device. The fields below requests belong to the goroutine of run.
type worker struct {
	host   *Host
	device devices.Ref
	log    *zap.Logger

	mu      sync.Mutex
	next    *target // the newest replaces an older one
	wake    chan struct{}
	ended   chan struct{}
	stopped chan struct{}
	// deleteErr is why the saved state of a deleted device still exists. It may be read after
	// stopped is closed.
	deleteErr error

	// requests are received commands.
	requests chan *request

	records      recorder
	status       *report.StatusWriter
	batches      chan sessionBatch
	sessionEnds  chan sessionEnd
	writeResults chan writeResult
	clock        clock

	target      *target    // is reconciled once the saved state is loaded
	saved       savedState // without the desired values, which are in facts
	loaded      bool
	loadAt      time.Time
	loadBackoff backoff.Backoff
	facts       *facts
	def         devices.Definition
	fenced      bool // the object is older than recorded: no writes
	// unreachable counts batches in a row without a response of the device.
	unreachable int
	session     *runningSession
	sessions    uint64 // number of sessions so far
	// reopenAt is when a session that ended by itself is opened again.
	reopenAt         time.Time
	reopenBackoff    backoff.Backoff
	openProblems     []devices.Problem // found by the driver when it opened the session
	reportedProblems string            // the problems that were reported as events
	dirty            bool              // the status has changed since the last one was sent
	statusAt         time.Time         // when the last status was sent
	statusLastOnline time.Time         // the last online time in it
	checkAt          time.Time         // when checkTimes is due

	needsSave bool // saved has changes that are not stored
	writing   bool

	desired  *desiredWriter
	commands *executor
}

// recorder takes what a device reports besides its status.
type recorder interface {
	StartEpoch(now time.Time)
	Samples(samples []devices.Sample)
	Audit(a *devices.Audit)
	Event(typ, reason, message string)
	// Unstored returns the number of audits and events that the sink has not stored.
	Unstored() int
	// Run stores what is taken until ctx ends, and then for a short time the rest.
	Run(ctx context.Context)
}

// runningSession is a session that runs. Its number distinguishes its batches and writes from
// those of an earlier one.
type runningSession struct {
	number  uint64
	session devices.Session
	cancel  context.CancelFunc
	done    chan struct{}
}

// sessionEnd reports that a session ended by itself.
type sessionEnd struct {
	number uint64
	err    error
}

type sessionBatch struct {
	session uint64
	batch   devices.Batch
}

func newWorker(h *Host, ref devices.Ref) *worker {
	log := h.log.With(zap.String("device", ref.String()))
	failures := logonce.New(log)
	w := &worker{
		host: h, device: ref, log: log, records: report.NewRecorder(ref, h.node, h.sink, h.counters, failures, log), status: report.NewStatusWriter(h.sink, ref, h.interval, h.counters, failures),
		wake: make(chan struct{}, 1), ended: make(chan struct{}), stopped: make(chan struct{}),
		batches: make(chan sessionBatch, batchQueue), sessionEnds: make(chan sessionEnd, 1), writeResults: make(chan writeResult, 1), requests: make(chan *request, 1),
		loadBackoff:   backoff.Backoff{First: writeRetry, Max: loadRetryMax},
		reopenBackoff: backoff.Backoff{First: writeRetry, Max: writeRetryMax},
		clock:         newClock(),
		facts:         &facts{device: ref, node: h.node, desired: map[string]desired.State{}, health: health{state: v1beta1.StateUnknown, reason: devices.ReasonConnecting}},
	}
	w.desired = &desiredWriter{
		device: w, facts: w.facts, counters: h.counters, records: w.records, log: log, backoff: backoff.Backoff{First: writeRetry, Max: writeRetryMax},
	}
	w.commands = &executor{ref: ref, device: w, state: h.state, counters: h.counters, records: w.records, log: log}
	h.counters.MoveDevice("", w.facts.health.state)
	return w
}

// assign sets the newest target of the worker. It does not block.
func (w *worker) assign(t target) {
	w.mu.Lock()
	w.next = &t
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
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
	wg.Go(func() { left = w.status.Run(ctx) })
	w.records.StartEpoch(time.Now())
	w.loop(ctx)
	w.stopSession()
	w.abandon(context.WithoutCancel(ctx))
	cancel()
	stopRecording()
	wg.Wait()
	w.saveAndReport(parent, left)
	w.host.counters.MoveDevice(w.facts.health.state, "")
}

// saveAndReport saves the state and the last status after the worker has stopped. The state
// of a deleted device is deleted instead.
func (w *worker) saveAndReport(parent context.Context, statusLeft bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(parent), report.StopTimeout)
	defer cancel()
	select {
	case <-w.ended:
		if w.deleteErr = deleteState(ctx, w.host.state, w.device); w.deleteErr != nil {
			w.log.Warn("delete state of deleted device", zap.Error(w.deleteErr))
		}
		return
	default:
	}
	if w.loaded && (w.needsSave || w.saved.LastOnline != unixMilli(w.facts.lastOnline)) {
		if err := w.save(ctx); err != nil {
			w.log.Warn("save state at stop", zap.Error(err))
		}
	}
	if w.dirty || statusLeft {
		if err := w.host.sink.Status(ctx, w.device, w.facts.status(time.Now())); err != nil {
			w.log.Warn("status not stored at stop", zap.Error(err))
		}
	}
}

// loop runs what is due and waits for the next input or time.
func (w *worker) loop(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		w.advance(ctx)
		timer.Reset(w.idle(time.Now()))
		var ready <-chan struct{}
		if w.dirty {
			ready = w.status.Ready()
		}
		select {
		case <-ctx.Done():
			return
		case <-w.ended:
			return
		case <-w.wake:
			w.mu.Lock()
			if w.next != nil {
				w.target, w.next = w.next, nil
			}
			w.mu.Unlock()
		case a := <-w.batches:
			if w.session != nil && a.session == w.session.number {
				w.observe(a.batch)
			}
		case e := <-w.sessionEnds:
			w.handleSessionEnd(e, time.Now())
		case r := <-w.writeResults:
			w.handleWriteResult(ctx, r)
		case r := <-w.requests:
			w.commands.enqueue(r)
		case <-ready:
			w.sendStatus(time.Now())
		case <-timer.C:
		}
	}
}

// advance runs everything that is due.
func (w *worker) advance(ctx context.Context) {
	if w.target != nil && w.load(ctx) {
		t := *w.target
		w.target = nil
		w.reconcile(ctx, t)
	}
	if now := time.Now(); !w.checkAt.IsZero() && !now.Before(w.checkAt) {
		w.checkTimes(now)
	}
	if !w.reopenAt.IsZero() && !time.Now().Before(w.reopenAt) {
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
	sooner(w.checkAt)
	sooner(w.reopenAt)
	if w.target != nil {
		sooner(w.loadAt)
	}
	sooner(w.commands.due(now))
	if !w.writing {
		sooner(w.desired.workAt)
	}
	return max(next.Sub(now), 0)
}

func unixMilli(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// abandon ends writes and commands when the worker stops. It waits for the write that runs,
// and fails the commands that are left.
func (w *worker) abandon(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, report.StopTimeout)
	defer cancel()
	if w.writing {
		w.handleWriteResult(ctx, <-w.writeResults)
	}
	w.commands.stop(ctx, w.requests)
}

// definition returns the definition with which the device is operated.
func (w *worker) definition() devices.Definition { return w.def }

// obstacle returns the result of commands that cannot be carried out now, or nil if they can.
func (w *worker) obstacle() *devices.CommandResult {
	switch h := w.facts.health; {
	case w.fenced:
		return &devices.CommandResult{Ack: devices.Failed, Reason: devices.ReasonStale, Message: "the Device object is older than one seen before"}
	case w.session == nil:
		return &devices.CommandResult{Ack: devices.Failed, Reason: h.reason, Message: h.message}
	case h.reason != devices.ReasonConnecting && !h.answers():
		return &devices.CommandResult{Ack: devices.Failed, Reason: devices.ReasonOffline, Message: h.reason + ": " + h.message}
	}
	return nil
}

// sessionNumber returns the number of the session that runs, 0 if there is none.
func (w *worker) sessionNumber() uint64 {
	if w.session == nil {
		return 0
	}
	return w.session.number
}

// keepSegments saves that n segments of the command log may exist.
func (w *worker) keepSegments(ctx context.Context, n int) error {
	was := w.saved.Segments
	if n <= was {
		return nil
	}
	w.saved.Segments = n
	err := w.save(ctx)
	if err != nil {
		w.saved.Segments = was
	}
	return err
}

// writable reports whether there is a session for writes, and the object is not fenced.
func (w *worker) writable() bool { return w.session != nil && !w.fenced }

// saveLater has the state saved before the next write.
func (w *worker) saveLater() { w.needsSave = true }
