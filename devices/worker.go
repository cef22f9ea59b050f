package devices

import (
	"context"
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
	// writeLimit is how long a driver may take to write a desired value.
	writeLimit = 15 * time.Second
)

// target is what a worker shall work on.
type target struct {
	device *v1beta1.Device
	model  *v1beta1.DeviceModel
	origin origin
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
	// unforgotten is why what was recorded of an ended device is still there. It is read
	// after gone is closed.
	unforgotten error

	// requests are commands that came in.
	requests chan *request

	outbox   *outbox
	status   *statusWriter
	batches  chan arrival
	over     chan sessionEnd
	writes   chan written
	epoch    int64
	sequence uint64
	audits   uint64
	clock    clock
	quota    quota

	target *target // is taken over when the memory is loaded
	memory memory  // what is recorded, but for the wishes, which are in facts
	ledger ledger
	loaded bool
	loadAt time.Time
	facts  facts
	def    Definition
	fenced bool // the object is older than recorded: nothing is written
	// misses counts how often in a row the device did not answer.
	misses   int
	session  *running
	sessions uint64 // how many there were
	// reopenAt is when a session that ended by itself is opened again.
	reopenAt   time.Time
	reopenWait time.Duration
	opened     []Problem // what the driver found when it opened the session
	announced  string    // the problems that were told in an event
	dirty      bool      // the status is newer than the one handed over
	toldAt     time.Time // when a status was handed over
	toldSeen   time.Time // and when the device had been seen last then
	checkAt    time.Time // when time alone changes something

	remember  bool // the memory is not saved yet
	writing   bool
	underway  attempt   // the write of a desired value, if any
	workAt    time.Time // when desired values are to be looked at; zero: when something happens
	calmUntil time.Time // an unreachable device is left in peace until then
	retryWait time.Duration

	queue []*execution // commands that have not begun
	// interrupted are the segments of commands that were, until that is saved.
	interrupted []int
	executing   *execution
}

// running is a session that runs. Its number tells its batches and writes from those
// of an earlier one.
type running struct {
	number  uint64
	session Session
	cancel  context.CancelFunc
	done    chan struct{}
}

// sessionEnd tells that a session ended by itself.
type sessionEnd struct {
	number uint64
	err    error
}

type arrival struct {
	session uint64
	batch   Batch
}

func newWorker(h *Host, ref Ref) *worker {
	log := h.log.With(zap.String("device", ref.String()))
	w := &worker{
		host: h, device: ref, log: log, outbox: newOutbox(h.sink, h.meters, log), status: newStatusWriter(h.sink, ref, h.interval, h.meters, log),
		news: make(chan struct{}, 1), ended: make(chan struct{}), gone: make(chan struct{}),
		batches: make(chan arrival, batchQueue), over: make(chan sessionEnd, 1), writes: make(chan written, 1), requests: make(chan *request, 1), retryWait: writeRetry,
		quota: newQuota(time.Now()), clock: newClock(),
		facts: facts{device: ref, node: h.node, wishes: map[string]wish{}, health: health{state: v1beta1.StateUnknown, reason: ReasonConnecting}},
	}
	h.meters.move("", w.facts.health.state)
	return w
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

// wait blocks until the worker that was ended is gone, or ctx ends. It returns an error
// when what was recorded is still there.
func (w *worker) wait(ctx context.Context) error {
	select {
	case <-w.gone:
		return w.unforgotten
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run works until ctx or the worker ends. It starts after the channel, if any, is
// closed.
func (w *worker) run(parent context.Context, after <-chan struct{}) {
	defer close(w.gone)
	if after != nil {
		<-after
	}
	ctx, cancel := context.WithCancel(parent)
	// The outbox outlives the host's end, to take what the write says that runs then.
	recording, stopRecording := context.WithCancel(context.WithoutCancel(parent))
	var wg sync.WaitGroup
	wg.Go(func() { w.outbox.run(recording) })
	left := false
	wg.Go(func() { left = w.status.run(ctx) })
	w.epoch = time.Now().UnixMilli()
	w.loop(ctx)
	w.stopSession()
	w.abandon(context.WithoutCancel(ctx))
	cancel()
	stopRecording()
	wg.Wait()
	w.leave(parent, left)
	w.host.meters.move(w.facts.health.state, "")
}

// leave does what must not be cut off by the end that it follows.
func (w *worker) leave(parent context.Context, statusLeft bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(parent), farewell)
	defer cancel()
	select {
	case <-w.ended:
		if w.unforgotten = forget(ctx, w.host.state, w.device); w.unforgotten != nil {
			w.log.Warn("state of deleted device is left behind", zap.Error(w.unforgotten))
		}
		return
	default:
	}
	if w.loaded && (w.remember || w.memory.LastOnline != unixMilli(w.facts.lastOnline)) {
		if err := w.save(ctx); err != nil {
			w.log.Warn("state not saved at stop", zap.Error(err))
		}
	}
	if w.dirty || statusLeft {
		if err := w.host.sink.Status(ctx, w.device, w.facts.status(time.Now())); err != nil {
			w.log.Warn("status lost at stop", zap.Error(err))
		}
	}
}

// loop does what is due and waits for the next thing to happen.
func (w *worker) loop(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		w.advance(ctx)
		timer.Reset(w.idle(time.Now()))
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
			if w.waiting != nil {
				w.target, w.waiting = w.waiting, nil
			}
			w.mu.Unlock()
		case a := <-w.batches:
			if w.session != nil && a.session == w.session.number {
				w.observe(a.batch)
			}
		case e := <-w.over:
			w.sessionOver(e, time.Now())
		case r := <-w.writes:
			w.settle(ctx, r)
		case r := <-w.requests:
			w.receive(r)
		case <-ready:
			w.hand(time.Now())
		case <-timer.C:
		}
	}
}

// advance does everything that is due.
func (w *worker) advance(ctx context.Context) {
	if w.target != nil && w.load(ctx) {
		t := *w.target
		w.target = nil
		w.reconcile(ctx, t)
	}
	if now := time.Now(); !w.checkAt.IsZero() && !now.Before(w.checkAt) {
		w.check(now)
	}
	if !w.reopenAt.IsZero() && !time.Now().Before(w.reopenAt) {
		w.reopen(ctx)
	}
	w.saveInterrupted(ctx)
	w.work(ctx)
}

// idle is how long nothing needs to be done unless something happens.
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
	if len(w.interrupted) > 0 {
		sooner(now.Add(writeRetry))
	}
	for _, e := range w.queue {
		sooner(e.deadline)
	}
	if !w.writing {
		sooner(w.workAt)
	}
	return max(next.Sub(now), 0)
}

func unixMilli(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}
