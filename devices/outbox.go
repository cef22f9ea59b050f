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
	sink Sink
	log  *zap.Logger

	mu      sync.Mutex
	queue   []any
	samples int
	dropped uint64
	wake    chan struct{}
}

func newOutbox(sink Sink, log *zap.Logger) *outbox {
	return &outbox{sink: sink, log: log, wake: make(chan struct{}, 1)}
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
	}
	o.queue = append(o.queue, item)
	o.mu.Unlock()
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

func (o *outbox) dropOldest() {
	for i, item := range o.queue {
		if _, ok := item.(*Samples); ok {
			o.queue = append(o.queue[:i], o.queue[i+1:]...)
			o.samples--
			o.dropped++
			return
		}
	}
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
	if s, ok := item.(*Samples); ok {
		o.samples--
		s.Dropped = o.dropped
	}
	return item
}

// run delivers until ctx ends, and then for a short time what is left.
func (o *outbox) run(ctx context.Context) {
	for ctx.Err() == nil {
		if item := o.take(); item != nil {
			if !o.deliver(ctx, item) {
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
			o.log.Warn("records lost at stop")
			return
		}
	}
}

func (o *outbox) unget(item any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.queue = append([]any{item}, o.queue...)
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
