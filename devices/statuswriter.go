package devices

import (
	"context"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// statusWriter hands the status of one device to the sink, at most one for each
// interval. It asks for the newest when it is ready, so that nothing is copied for
// statuses that are never written.
type statusWriter struct {
	sink   Sink
	device Ref
	meters *meters
	log    *zap.Logger
	// interval is the shortest time between two statuses, in ns.
	interval atomic.Int64
	// ready offers to take a status; whoever receives from it sends one to in.
	ready chan struct{}
	in    chan facts
}

func newStatusWriter(sink Sink, device Ref, interval time.Duration, m *meters, log *zap.Logger) *statusWriter {
	s := &statusWriter{sink: sink, device: device, meters: m, log: log, ready: make(chan struct{}), in: make(chan facts, 1)}
	s.interval.Store(int64(interval))
	return s
}

// run delivers until ctx ends. It answers whether a status is left that the sink
// did not take.
func (s *statusWriter) run(ctx context.Context) (left bool) {
	for {
		select {
		case <-ctx.Done():
			return false
		case s.ready <- struct{}{}:
		}
		if !s.deliver(ctx, <-s.in) {
			return true
		}
		pause(ctx, time.Duration(s.interval.Load()))
	}
}

// deliver tries until the sink takes the status or a newer one in its place.
func (s *statusWriter) deliver(ctx context.Context, f facts) bool {
	wait := sinkRetry
	for failed := false; ; failed = true {
		err := s.sink.Status(ctx, s.device, f.status(time.Now()))
		if err == nil {
			s.meters.statuses.Add(1)
			return true
		}
		if !failed && ctx.Err() == nil {
			s.log.Warn("sink takes no status", zap.Error(err))
		}
		if !pause(ctx, wait) {
			return false
		}
		wait = min(2*wait, sinkRetryMax)
		select {
		case s.ready <- struct{}{}:
			f = <-s.in
		default:
		}
	}
}
