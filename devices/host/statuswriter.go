package host

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/internal/backoff"
	"github.com/petiole-io/petiole/internal/logonce"
)

// statusWriter passes the status of one device to the sink, at most one in each interval. It
// asks for the newest when it is ready, so that statuses that are never stored are not
// copied.
type statusWriter struct {
	sink     devices.Sink
	device   devices.Ref
	counters *counters
	failures *logonce.Reporter
	// interval is the shortest time between two statuses, in ns.
	interval atomic.Int64
	// ready offers to store a status; a goroutine that receives from it must send one to in.
	ready chan struct{}
	in    chan facts
}

func newStatusWriter(sink devices.Sink, device devices.Ref, interval time.Duration, m *counters, failures *logonce.Reporter) *statusWriter {
	s := &statusWriter{sink: sink, device: device, counters: m, failures: failures, ready: make(chan struct{}), in: make(chan facts, 1)}
	s.interval.Store(int64(interval))
	return s
}

// run delivers until ctx ends. It reports whether a status is left that the sink did not
// store.
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
		backoff.Sleep(ctx, time.Duration(s.interval.Load()))
	}
}

// deliver stores the status, or a newer one in its place. It returns false if ctx ends before.
func (s *statusWriter) deliver(ctx context.Context, f facts) bool {
	retry := false
	stored := deliver(ctx, s.failures, "store status of device", func() error {
		if retry {
			select {
			case s.ready <- struct{}{}:
				f = <-s.in
			default:
			}
		}
		retry = true
		return s.sink.Status(ctx, s.device, f.status(time.Now()))
	})
	if stored {
		s.counters.statuses.Add(1)
	}
	return stored
}
