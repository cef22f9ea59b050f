package report

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/internal/backoff"
	"github.com/petiole-io/petiole/devices/internal/stats"
	"github.com/petiole-io/petiole/internal/logonce"
)

// Status returns a status as of now. It is called from another goroutine than its creator's,
// and more than once if the sink fails.
type Status func(now time.Time) *v1beta1.DeviceStatus

// StatusWriter passes the status of one device to the sink, at most one in each interval. It
// asks for the newest when it is ready, so that statuses that are never stored are not
// copied.
type StatusWriter struct {
	sink     devices.Sink
	device   devices.Ref
	counters *stats.Counters
	failures *logonce.Reporter
	// interval is the shortest time between two statuses, in ns.
	interval atomic.Int64
	// gather is the interval at whose multiples statuses are stored, 0 if at any time.
	gather time.Duration
	ready  chan struct{}
	in     chan Status
}

// NewStatusWriter returns the StatusWriter of a device, which stores statuses at the times at which
// the Recorders with the same gather store samples. It starts nothing.
func NewStatusWriter(sink devices.Sink, device devices.Ref, interval, gather time.Duration, m *stats.Counters, failures *logonce.Reporter) *StatusWriter {
	s := &StatusWriter{sink: sink, device: device, gather: gather, counters: m, failures: failures, ready: make(chan struct{}), in: make(chan Status, 1)}
	s.interval.Store(int64(interval))
	return s
}

// SetInterval sets the shortest time between two statuses.
func (s *StatusWriter) SetInterval(d time.Duration) { s.interval.Store(int64(d)) }

// Ready offers to store a status. Who receives from it must call Send.
func (s *StatusWriter) Ready() <-chan struct{} { return s.ready }

// Send passes on a status after a receive from Ready. It does not block.
func (s *StatusWriter) Send(status Status) { s.in <- status }

// Run delivers until ctx ends. It reports whether a status is left that the sink did not
// store.
func (s *StatusWriter) Run(ctx context.Context) (left bool) {
	for {
		select {
		case <-ctx.Done():
			return false
		case s.ready <- struct{}{}:
		}
		if !s.deliver(ctx, <-s.in) {
			return true
		}
		backoff.Sleep(ctx, s.pause())
	}
}

// pause returns how long to wait after a status.
func (s *StatusWriter) pause() time.Duration {
	interval := time.Duration(s.interval.Load())
	if s.gather == 0 {
		return interval
	}
	return max(0, interval-s.gather) + untilShared(s.gather)
}

// deliver stores the status, or a newer one in its place. It returns false if ctx ends before.
func (s *StatusWriter) deliver(ctx context.Context, status Status) bool {
	retry := false
	stored := deliver(ctx, s.failures, "store status of device", func() error {
		if retry {
			select {
			case s.ready <- struct{}{}:
				status = <-s.in
			default:
			}
		}
		retry = true
		return s.sink.Status(ctx, s.device, status(time.Now()))
	})
	if stored {
		s.counters.Statuses.Add(1)
	}
	return stored
}
