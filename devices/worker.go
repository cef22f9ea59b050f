package devices

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

const (
	// batchQueue is how many batches a session may be ahead of its worker.
	batchQueue = 16
	writeRetry = time.Second
	// writeRetryMax is how often an unreachable device is tried when nothing else
	// tells that it is back.
	writeRetryMax = 30 * time.Second
)

// target is what a worker shall work on.
type target struct {
	device  *v1beta1.Device
	model   *v1beta1.DeviceModel
	version string
}

// worker operates one device. Its fields below run belong to the goroutine of run.
type worker struct {
	host   *Host
	device Ref
	log    *zap.Logger

	mu      sync.Mutex
	waiting *target // newest wins
	news    chan struct{}
	ended   chan struct{}
	gone    chan struct{}

	outbox    *outbox
	status    *statusWriter
	batches   chan arrival
	writes    chan written
	epoch     int64
	sequence  uint64
	audits    uint64
	facts     facts
	def       Definition
	session   *running
	announced string // the problems that were told in an event
	dirty     bool   // the status is newer than the one handed over
	remember  bool   // commands are not saved yet
	loaded    bool
	writing   bool
	underway  string // the property that is written
	retryAt   time.Time
	retryWait time.Duration
}

// running is a session that runs. Its number tells its batches and writes from those
// of an earlier one.
type running struct {
	number  uint64
	session Session
	cancel  context.CancelFunc
	done    chan struct{}
}

type arrival struct {
	session uint64
	batch   Batch
}

func newWorker(h *Host, ref Ref) *worker {
	log := h.log.With(zap.String("device", ref.String()))
	return &worker{
		host: h, device: ref, log: log, outbox: newOutbox(h.sink, log), status: newStatusWriter(h.sink, ref, h.interval, log),
		news: make(chan struct{}, 1), ended: make(chan struct{}), gone: make(chan struct{}),
		batches: make(chan arrival, batchQueue), writes: make(chan written, 1), retryWait: writeRetry,
		facts: facts{device: ref, node: h.node, commands: map[string]command{},
			health: health{state: v1beta1.StateUnknown, reason: ReasonConnecting}},
	}
}

// assign gives the worker its newest target. It does not block.
func (w *worker) assign(t target) {
	w.mu.Lock()
	w.waiting = &t
	w.mu.Unlock()
	select {
	case w.news <- struct{}{}:
	default:
	}
}

// end stops the worker for good and makes it forget. It may be called once.
func (w *worker) end() { close(w.ended) }

// run works until ctx or the worker ends. It starts after the channel, if any, is
// closed.
func (w *worker) run(parent context.Context, after <-chan struct{}) {
	defer close(w.gone)
	if after != nil {
		<-after
	}
	ctx, cancel := context.WithCancel(parent)
	var wg sync.WaitGroup
	wg.Go(func() { w.outbox.run(ctx) })
	left := false
	wg.Go(func() { left = w.status.run(ctx) })
	w.epoch = time.Now().UnixMilli()
	w.loop(ctx)
	w.stopSession()
	if w.writing {
		w.settle(<-w.writes)
	}
	cancel()
	wg.Wait()
	w.leave(parent, left)
}

// leave does what must not be cut off by the end that it follows.
func (w *worker) leave(parent context.Context, statusLeft bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(parent), farewell)
	defer cancel()
	select {
	case <-w.ended:
		if err := w.host.state.Delete(ctx, w.device.String()); err != nil {
			w.log.Warn("state of deleted device is left behind", zap.Error(err))
		}
		return
	default:
	}
	if w.remember {
		if err := save(ctx, w.host.state, w.device, w.facts.commands); err != nil {
			w.log.Warn("state not saved at stop", zap.Error(err))
		}
	}
	if w.dirty || statusLeft {
		if err := w.host.sink.Status(ctx, w.device, w.facts.status()); err != nil {
			w.log.Warn("status lost at stop", zap.Error(err))
		}
	}
}

func (w *worker) loop(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		w.work(ctx)
		timer.Reset(w.nextTry())
		var ready <-chan struct{}
		if w.dirty {
			ready = w.status.ready
		}
		select {
		case <-ctx.Done():
			return
		case <-w.ended:
			return
		case <-w.news:
			w.mu.Lock()
			t := w.waiting
			w.waiting = nil
			w.mu.Unlock()
			if t != nil {
				w.reconcile(ctx, *t)
			}
		case a := <-w.batches:
			if w.session != nil && a.session == w.session.number {
				w.observe(a.batch)
			}
		case r := <-w.writes:
			w.settle(r)
		case <-ready:
			w.dirty = false
			w.status.in <- w.facts.snapshot()
		case <-timer.C:
		}
	}
}

// nextTry is how long nothing needs to be done unless something happens.
func (w *worker) nextTry() time.Duration {
	if w.writing || w.retryAt.IsZero() {
		return time.Hour
	}
	return max(time.Until(w.retryAt), 0)
}

// reconcile takes a new target over: the desired values always, the session only
// when what it reads has changed.
func (w *worker) reconcile(ctx context.Context, t target) {
	if !w.loaded && !w.load(ctx) {
		return
	}
	def, desired, problems := Resolve(t.device, t.model)
	if w.session == nil || !reflect.DeepEqual(def, w.def) {
		problems = append(problems, w.replace(ctx, def, problems)...)
		w.facts.problems = problems
	} else {
		w.facts.problems = keepOpened(w.facts.problems, problems)
	}
	if t.model != nil { // without it nothing can be said of the desired values
		w.want(desired, t.version)
	}
	w.announce()
	w.changed()
}

// load reads what was recorded of the device, as often as it takes: without it a
// value might be written twice.
func (w *worker) load(ctx context.Context) bool {
	wait := sinkRetry
	for {
		c, err := load(ctx, w.host.state, w.device)
		if errors.Is(err, errCorrupt) {
			// Values are compared with the device before they are written, so going on
			// without the record is the smaller harm.
			w.log.Error("state unreadable, going on without", zap.Error(err))
			c, err = map[string]command{}, nil
		}
		if err == nil {
			w.facts.commands, w.loaded = c, true
			return true
		}
		w.log.Warn("state not readable", zap.Error(err))
		select {
		case <-w.ended:
			return false
		default:
		}
		if !pause(ctx, wait) {
			return false
		}
		wait = min(2*wait, sinkRetryMax)
	}
}

// observe takes what a session has read.
func (w *worker) observe(b Batch) {
	changed := w.reach(b)
	samples := make([]Sample, 0, len(b.Readings))
	for _, r := range b.Readings {
		if r.Point < 0 || r.Point >= len(w.facts.points) {
			continue
		}
		c, sample := w.facts.twins[r.Point].observe(r)
		changed = changed || c
		if c && r.Quality == Good && w.drift(r.Point) {
			changed = true
		}
		if sample {
			samples = append(samples, Sample{
				Property: w.facts.points[r.Point].Name, Value: r.Value, Quality: r.Quality, Reason: r.Reason, Time: r.Time.UnixMilli(),
			})
		}
	}
	if len(samples) > 0 {
		w.sequence++
		w.outbox.put(&Samples{Device: w.device, Node: w.host.node, Epoch: w.epoch, Sequence: w.sequence, Samples: samples})
	}
	if changed {
		w.changed()
	}
}

// reach tells whether the device's state changed with a batch.
func (w *worker) reach(b Batch) bool {
	was := w.facts.health
	if b.Reachable {
		w.facts.lastOnline = b.Time
		if was.state == v1beta1.StateOnline {
			return false
		}
		w.facts.health = health{v1beta1.StateOnline, ReasonOnline, ""}
		w.log.Info("device online")
		w.event(EventNormal, ReasonOnline, "the device answers")
		w.retryAt, w.retryWait = time.Now(), writeRetry // what waits for the device is tried at once
		return true
	}
	if was.state == v1beta1.StateOffline && was.reason == b.Reason {
		return false // the message may differ every time and is not worth a status
	}
	w.facts.health = health{v1beta1.StateOffline, b.Reason, b.Message}
	if was.state != v1beta1.StateOffline {
		w.log.Warn("device offline", zap.String("reason", b.Reason), zap.String("message", b.Message))
		w.event(EventWarning, ReasonOffline, b.Reason+": "+b.Message)
	}
	return true
}

// changed has the status written soon. Before the device has been tried there is
// nothing to tell: the last status stays.
func (w *worker) changed() {
	if w.facts.health.reason != ReasonConnecting || len(w.facts.problems) > 0 || len(w.facts.points) == 0 {
		w.dirty = true
	}
}

func (w *worker) event(typ, reason, message string) {
	w.outbox.put(&Event{Device: w.device, Node: w.host.node, Type: typ, Reason: reason, Message: message, Time: time.Now().UnixMilli()})
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

// keepOpened joins fresh problems of resolving with earlier ones of opening, which
// was not repeated.
func keepOpened(earlier, fresh []Problem) []Problem {
	out := append([]Problem(nil), fresh...)
	for _, p := range earlier {
		found := false
		for _, f := range fresh {
			found = found || f == p
		}
		if !found {
			out = append(out, p)
		}
	}
	return out
}
