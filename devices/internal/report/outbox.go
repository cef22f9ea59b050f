package report

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/internal/backoff"
	"github.com/petiole-io/petiole/devices/internal/stats"
	"github.com/petiole-io/petiole/internal/logonce"
)

const (
	// outboxRecords bounds the records of samples that wait for a sink that fails; audits and
	// events are few and always wait.
	outboxRecords = 4096
	sinkRetry     = 200 * time.Millisecond
	sinkRetryMax  = 10 * time.Second
	// gatheredSamples bounds the samples of a record.
	gatheredSamples = 1000
	// StopTimeout bounds how long a stopping worker still tries to store what it has.
	StopTimeout = 2 * time.Second
)

// outbox passes samples, audits and events of one device to the sink, in order, and retries
// each until it is stored. Samples that wait become one record. When the sink fails for long, or
// there is no room, it drops the oldest samples, and reports the number of their records with the
// next ones.
type outbox struct {
	sink     devices.Sink
	room     *Room
	counters *stats.Counters
	failures *logonce.Reporter
	log      *zap.Logger

	mu      sync.Mutex
	queue   []any
	samples int
	sending any // the item that the sink is storing
	// returned is the item that was put back: the sink may have stored it as it is.
	returned any
	// gather is the interval in which samples become one record, 0 if each call is one; open is
	// that record until its time.
	gather time.Duration
	open   *devices.Samples
	// dropped counts the lost batches of the epoch.
	dropped uint64
	epoch   int64
	wake    chan struct{}
}

func newOutbox(sink devices.Sink, room *Room, gather time.Duration, m *stats.Counters, failures *logonce.Reporter, log *zap.Logger) *outbox {
	return &outbox{sink: sink, room: room, gather: gather, counters: m, failures: failures, log: log, wake: make(chan struct{}, 1)}
}

// join adds samples to the record that is gathered, or is the last that waits, if there is one of the
// epoch, by the same clock, with room.
func (o *outbox) join(epoch int64, mark *devices.ClockMark, samples []devices.Sample) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	last := o.open
	if last == nil && len(o.queue) > 0 {
		last, _ = o.queue[len(o.queue)-1].(*devices.Samples)
	}
	if last == nil || any(last) == o.returned || last.Epoch != epoch || last.Clock != mark || len(last.Samples)+len(samples) > gatheredSamples {
		return false
	}
	last.Samples = append(last.Samples, samples...)
	if last != o.open {
		o.counters.Samples.Add(uint64(len(samples)))
		o.room.add(len(samples))
		for o.room.full() && o.samples > 1 { // the newest one stays
			o.dropOldest()
		}
	}
	return true
}

// begin gathers samples from s on, and passes on what was gathered before.
func (o *outbox) begin(s *devices.Samples) {
	o.close()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.open = s
	o.notify()
}

// close passes on what is gathered.
func (o *outbox) close() {
	o.mu.Lock()
	s := o.open
	o.open = nil
	o.mu.Unlock()
	if s != nil {
		o.put(s)
	}
}

// due returns a channel that delivers at the time of the record that is gathered, nil if there
// is none.
func (o *outbox) due() <-chan time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.open == nil {
		return nil
	}
	return time.After(untilShared(o.gather))
}

// notify wakes run.
func (o *outbox) notify() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// records returns the number of audits and events that the sink has not stored.
func (o *outbox) records() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := len(o.queue) - o.samples
	switch o.sending.(type) {
	case *devices.Audit, *devices.Event:
		n++
	}
	return n
}

// put queues a *Samples, *Audit or *Event. It never blocks.
func (o *outbox) put(item any) {
	o.mu.Lock()
	if s, ok := item.(*devices.Samples); ok {
		o.room.add(len(s.Samples))
		for o.samples >= outboxRecords || o.samples > 0 && o.room.full() {
			o.dropOldest()
		}
		o.samples++
		s.Dropped = 0
		o.counters.Batches.Add(1)
		o.counters.Samples.Add(uint64(len(s.Samples)))
	}
	o.queue = append(o.queue, item)
	o.counters.Waiting.Add(1)
	o.mu.Unlock()
	o.notify()
}

func (o *outbox) dropOldest() {
	for i, item := range o.queue {
		s, ok := item.(*devices.Samples)
		if !ok {
			continue
		}
		copy(o.queue[1:i+1], o.queue[:i]) // few items are before it
		o.queue[0] = nil
		o.queue = o.queue[1:]
		o.samples--
		o.room.add(-len(s.Samples))
		o.countDropped(s)
		o.counters.Waiting.Add(-1)
		return
	}
}

// countDropped counts a batch that the sink will never get.
func (o *outbox) countDropped(s *devices.Samples) {
	if s.Epoch != o.epoch {
		o.epoch, o.dropped = s.Epoch, 0
	}
	o.dropped++
	o.counters.Dropped.Add(1)
}

func (o *outbox) pop() any {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.queue) == 0 {
		return nil
	}
	item := o.queue[0]
	o.queue[0] = nil
	o.queue = o.queue[1:]
	o.sending = item
	o.counters.Waiting.Add(-1)
	if s, ok := item.(*devices.Samples); ok {
		o.samples--
		o.room.add(-len(s.Samples))
		if s.Epoch == o.epoch {
			s.Dropped = o.dropped
		}
	}
	return item
}

// run delivers until ctx ends, and then for a short time the rest.
func (o *outbox) run(ctx context.Context) {
	for ctx.Err() == nil {
		if item := o.pop(); item != nil {
			if o.deliver(ctx, item) {
				o.done()
			} else {
				o.putBack(item)
			}
			continue
		}
		select {
		case <-ctx.Done():
		case <-o.wake:
		case <-o.due():
			o.close()
		}
	}
	o.close()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), StopTimeout)
	defer cancel()
	for item := o.pop(); item != nil; item = o.pop() {
		if !o.deliver(last, item) {
			o.putBack(item)
			o.dropRest()
			return
		}
		o.done()
	}
}

func (o *outbox) done() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.sending = nil
}

// dropRest drops what the sink has not stored before the stop.
func (o *outbox) dropRest() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, item := range o.queue {
		if s, ok := item.(*devices.Samples); ok {
			o.room.add(-len(s.Samples))
			o.countDropped(s)
		}
	}
	o.log.Warn("records dropped at stop: the sink does not store them", zap.Int("batches", o.samples), zap.Int("others", len(o.queue)-o.samples))
	o.counters.Waiting.Add(-int64(len(o.queue)))
	o.queue, o.samples = nil, 0
}

func (o *outbox) putBack(item any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.sending, o.returned = nil, item
	o.queue = append([]any{item}, o.queue...)
	o.counters.Waiting.Add(1)
	if s, ok := item.(*devices.Samples); ok {
		o.samples++
		o.room.add(len(s.Samples))
	}
}

// deliver stores an item. It returns false if ctx ends before.
func (o *outbox) deliver(ctx context.Context, item any) bool {
	return deliver(ctx, o.failures, "store records of device", func() error { return o.send(ctx, item) })
}

func (o *outbox) send(ctx context.Context, item any) error {
	switch t := item.(type) {
	case *devices.Samples:
		return o.sink.Samples(ctx, t)
	case *devices.Audit:
		return o.sink.Audit(ctx, t)
	case *devices.Event:
		return o.sink.Event(ctx, t)
	default:
		return nil
	}
}

// deliver calls store until it returns nil, with a pause between attempts that doubles. It
// returns false if ctx ends first.
func deliver(ctx context.Context, failures *logonce.Reporter, operation string, store func() error) bool {
	retry := backoff.Backoff{First: sinkRetry, Max: sinkRetryMax}
	for {
		err := store()
		if err != nil && ctx.Err() != nil {
			return false
		}
		failures.Report(operation, err)
		if err == nil {
			return true
		}
		if !retry.Wait(ctx) {
			return false
		}
	}
}
