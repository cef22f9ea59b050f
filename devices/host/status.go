package host

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/internal/report"
	"github.com/petiole-io/petiole/devices/internal/twin"
)

// statusReporter decides when the status of a device is sent.
type statusReporter struct {
	facts  *twin.Device
	sink   devices.Sink
	writer *report.StatusWriter
	log    *zap.Logger
	// interval is the shortest time between two statuses of any device.
	interval time.Duration

	restored   bool      // the last status before the start was looked for
	dirty      bool      // the status has changed since the last one was sent
	sentAt     time.Time // when the last status was sent
	lastOnline time.Time // the last online time in it
	checkAt    time.Time // when check is due
}

// setInterval sets the shortest time between two statuses that the device's settings ask for.
func (s *statusReporter) setInterval(d time.Duration) { s.writer.SetInterval(max(s.interval, d)) }

// changed schedules a status. Before the device was contacted there is nothing to report: the
// previous status stays.
func (s *statusReporter) changed() {
	if s.facts.Health.Reason != devices.ReasonConnecting || len(s.facts.Problems) > 0 || len(s.facts.Twins) == 0 {
		s.dirty = true
	}
}

// restore reads the values of the last status that the host has stored before it was started.
func (s *statusReporter) restore(ctx context.Context) {
	r, ok := s.sink.(devices.StatusReader)
	if s.restored || !ok {
		return
	}
	s.restored = true
	last, err := r.LastStatus(ctx, s.facts.Ref)
	switch {
	case err != nil:
		s.log.Warn("read last status of device, values are reported when they are read again", zap.Error(err))
	case last != nil:
		s.facts.Restore(last)
	}
}

// ready returns a channel that receives when a status that waits can be sent, nil if none
// waits.
func (s *statusReporter) ready() <-chan struct{} {
	if !s.dirty {
		return nil
	}
	return s.writer.Ready()
}

// send passes the present status to the status writer, which is ready for it.
func (s *statusReporter) send(now time.Time) {
	s.dirty = false
	s.facts.MarkReported()
	s.sentAt, s.lastOnline = now, s.facts.LastOnline
	s.scheduleCheck(now.Add(s.facts.RepeatAfter()))
	s.writer.Send(s.facts.Snapshot().Status)
}

// check makes values uncertain that were not read for long, and repeats an old status if it
// has a newer time to report.
func (s *statusReporter) check(now time.Time) {
	s.checkAt = time.Time{}
	changed, next := s.facts.CheckAge(now)
	if changed {
		s.changed()
	}
	if !next.IsZero() {
		s.scheduleCheck(next)
	}
	every := s.facts.RepeatAfter()
	if s.dirty || s.sentAt.IsZero() || every == 0 {
		return
	}
	if at := s.sentAt.Add(every); now.Before(at) {
		s.scheduleCheck(at)
	} else if s.facts.LastOnline.After(s.lastOnline) {
		s.changed()
	} else {
		s.scheduleCheck(now.Add(every))
	}
}

// scheduleCheck has check called no later than t.
func (s *statusReporter) scheduleCheck(t time.Time) {
	if s.checkAt.IsZero() || t.Before(s.checkAt) {
		s.checkAt = t
	}
}

// finish stores the last status after the writer has stopped, if the writer left one or there
// is a newer one.
func (s *statusReporter) finish(ctx context.Context, left bool) {
	if !s.dirty && !left {
		return
	}
	if err := s.sink.Status(ctx, s.facts.Ref, s.facts.Snapshot().Status(time.Now())); err != nil {
		s.log.Warn("status not stored at stop", zap.Error(err))
	}
}
