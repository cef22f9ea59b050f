package devices

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"
)

const (
	// outboxSamples bounds how many batches of samples wait for a sink that does not
	// take them; audits and events are few and always wait.
	outboxSamples = 4096
	sinkRetry     = 200 * time.Millisecond
	sinkRetryMax  = 10 * time.Second
	// farewell is how long a stopping worker still offers what it has.
	farewell = 2 * time.Second
)

// outbox hands samples, audits and events of one device to the sink, in order, each
// until it is taken. When the sink takes nothing the oldest samples are dropped and
// the number of them is told with the next.
type outbox struct {
	sink   Sink
	meters *meters
	log    *zap.Logger

	mu      sync.Mutex
	queue   []any
	samples int
	inHand  any // what the sink is given now
	// dropped counts the batches of the epoch that were lost.
	dropped uint64
	epoch   int64
	wake    chan struct{}
}

func newOutbox(sink Sink, m *meters, log *zap.Logger) *outbox {
	return &outbox{sink: sink, meters: m, log: log, wake: make(chan struct{}, 1)}
}

// records is how many audits and events the sink has not taken.
func (o *outbox) records() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := len(o.queue) - o.samples
	switch o.inHand.(type) {
	case *Audit, *Event:
		n++
	}
	return n
}

// put never blocks. item is a *Samples, *Audit or *Event.
func (o *outbox) put(item any) {
	o.mu.Lock()
	if s, ok := item.(*Samples); ok {
		if o.samples >= outboxSamples {
			o.dropOldest()
		}
		o.samples++
		s.Dropped = 0
		o.meters.batches.Add(1)
		o.meters.samples.Add(uint64(len(s.Samples)))
	}
	o.queue = append(o.queue, item)
	o.meters.waiting.Add(1)
	o.mu.Unlock()
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

func (o *outbox) dropOldest() {
	for i, item := range o.queue {
		s, ok := item.(*Samples)
		if !ok {
			continue
		}
		copy(o.queue[1:i+1], o.queue[:i]) // what is before it is little
		o.queue[0] = nil
		o.queue = o.queue[1:]
		o.samples--
		o.lose(s)
		o.meters.waiting.Add(-1)
		return
	}
}

// lose counts a batch that the sink will never get.
func (o *outbox) lose(s *Samples) {
	if s.Epoch != o.epoch {
		o.epoch, o.dropped = s.Epoch, 0
	}
	o.dropped++
	o.meters.dropped.Add(1)
}

func (o *outbox) take() any {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.queue) == 0 {
		return nil
	}
	item := o.queue[0]
	o.queue[0] = nil
	o.queue = o.queue[1:]
	o.inHand = item
	o.meters.waiting.Add(-1)
	if s, ok := item.(*Samples); ok {
		o.samples--
		if s.Epoch == o.epoch {
			s.Dropped = o.dropped
		}
	}
	return item
}

// run delivers until ctx ends, and then for a short time what is left.
func (o *outbox) run(ctx context.Context) {
	for ctx.Err() == nil {
		if item := o.take(); item != nil {
			if o.deliver(ctx, item) {
				o.taken()
			} else {
				o.unget(item)
			}
			continue
		}
		select {
		case <-ctx.Done():
		case <-o.wake:
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
	defer cancel()
	for item := o.take(); item != nil; item = o.take() {
		if !o.deliver(last, item) {
			o.unget(item)
			o.abandon()
			return
		}
		o.taken()
	}
}

func (o *outbox) taken() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.inHand = nil
}

// abandon gives up what the sink did not take before the end.
func (o *outbox) abandon() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, item := range o.queue {
		if s, ok := item.(*Samples); ok {
			o.lose(s)
		}
	}
	o.log.Warn("records lost at stop", zap.Int("batches", o.samples), zap.Int("others", len(o.queue)-o.samples))
	o.meters.waiting.Add(-int64(len(o.queue)))
	o.queue, o.samples = nil, 0
}

func (o *outbox) unget(item any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.inHand = nil
	o.queue = append([]any{item}, o.queue...)
	o.meters.waiting.Add(1)
	if _, ok := item.(*Samples); ok {
		o.samples++
	}
}

// deliver tries until the sink takes the item; false means that ctx ended before.
func (o *outbox) deliver(ctx context.Context, item any) bool {
	wait := sinkRetry
	for failed := false; ; failed = true {
		err := o.hand(ctx, item)
		if err == nil {
			if failed {
				o.log.Info("sink takes records again")
			}
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		if !failed {
			o.log.Warn("sink takes no records", zap.Error(err))
		}
		if !pause(ctx, wait) {
			return false
		}
		wait = min(2*wait, sinkRetryMax)
	}
}

func (o *outbox) hand(ctx context.Context, item any) error {
	switch t := item.(type) {
	case *Samples:
		return o.sink.Samples(ctx, t)
	case *Audit:
		return o.sink.Audit(ctx, t)
	case *Event:
		return o.sink.Event(ctx, t)
	default:
		return nil
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
