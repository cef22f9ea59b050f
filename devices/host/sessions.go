package host

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/internal/backoff"
	"github.com/petiole-io/petiole/devices/internal/desired"
	"github.com/petiole-io/petiole/devices/internal/twin"
)

const (
	// batchQueue is the number of batches that a session may be ahead of its worker.
	batchQueue = 16
	// reopenFirst and reopenMax are the shortest and the longest pause before a session that
	// ended by itself is opened again.
	reopenFirst = time.Second
	reopenMax   = 30 * time.Second
)

// sessions runs the sessions with one device, one at a time, and the writes through them.
type sessions struct {
	driver  func(protocol string) devices.Driver
	batches chan sessionBatch
	ends    chan sessionEnd
	results chan writeResult

	running *runningSession
	count   uint64 // number of sessions so far
	// problems were found by the driver when it opened the session.
	problems []devices.Problem
	// reopenAt is when a session that ended by itself is opened again.
	reopenAt time.Time
	backoff  backoff.Backoff
	writing  bool
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

// writeResult is the result of a write.
type writeResult struct {
	session  uint64
	property string
	// desired is the desired value that was written; execution is set for a command's write.
	desired   desired.State
	execution *execution
	outcome   devices.Outcome
	err       error
	// group has the results of the values that were written together; the other fields but
	// session are then not set.
	group []writeResult
}

func newSessions(driver func(string) devices.Driver) *sessions {
	return &sessions{
		driver: driver, batches: make(chan sessionBatch, batchQueue), ends: make(chan sessionEnd, 1), results: make(chan writeResult, 1),
		backoff: backoff.Backoff{First: reopenFirst, Max: reopenMax},
	}
}

// mapped reports whether the devices of a protocol are operated by mappers.
func (s *sessions) mapped(protocol string) bool {
	d := s.driver(protocol)
	return d != nil && slices.Contains(d.Protocols(), devices.AnyProtocol)
}

// open opens a session for a definition. It returns nil if that fails, or if the device must
// not be operated.
func (s *sessions) open(def devices.Definition, problems []devices.Problem) devices.Session {
	s.problems = nil
	if twin.InitialHealth(def, problems).Reason != devices.ReasonConnecting {
		return nil
	}
	driver := s.driver(def.Protocol)
	if driver == nil {
		s.problems = []devices.Problem{{Reason: devices.ReasonUnknownProtocol, Message: fmt.Sprintf("no driver for protocol %q", def.Protocol)}}
		return nil
	}
	session, found, err := driver.Open(def)
	s.problems = found
	if err != nil {
		s.problems = append(s.problems, devices.Problem{Reason: devices.ReasonInvalidProtocol, Message: err.Error()})
		return nil
	}
	return session
}

// start runs a session, while none runs.
func (s *sessions) start(parent context.Context, opened devices.Session) {
	ctx, cancel := context.WithCancel(parent)
	s.count++
	number := s.count
	r := &runningSession{number: number, session: opened, cancel: cancel, done: make(chan struct{})}
	s.running = r
	go func() {
		defer close(r.done)
		err := opened.Run(ctx, func(b devices.Batch) {
			select {
			case s.batches <- sessionBatch{number, b}:
			case <-ctx.Done():
			}
		})
		select {
		case s.ends <- sessionEnd{number, err}:
		case <-ctx.Done():
		}
	}()
}

// number returns the number of the session that runs, 0 if there is none.
func (s *sessions) number() uint64 {
	if s.running == nil {
		return 0
	}
	return s.running.number
}

// stop ends the session, if one runs.
func (s *sessions) stop() {
	if s.running != nil {
		s.running.stop()
		s.running = nil
	}
}

func (r *runningSession) stop() {
	r.cancel()
	<-r.done
}

// ended stops the session that ended by itself, and schedules the next one, after a pause
// that doubles until the device responds. It returns why the session ended, and false if that
// is not the session that runs.
func (s *sessions) ended(e sessionEnd, now time.Time) (message string, current bool) {
	if s.number() != e.number {
		return "", false
	}
	message = "the driver ended the session without an error"
	if e.err != nil {
		message = e.err.Error()
	}
	s.stop()
	s.reopenAt = now.Add(s.backoff.Next())
	return message, true
}

// reset cancels the opening of a session that ended by itself.
func (s *sessions) reset() {
	s.reopenAt = time.Time{}
	s.backoff.Reset()
}

// write starts a write by the session. That of a command ends at limit; that of a desired value
// begins before limit, and ends then, too, unless the session waits longer for the device to
// show the value. The result goes to results. The returned function keeps the write from
// beginning.
func (s *sessions) write(ctx context.Context, point int, value string, limit time.Time, job writeResult) context.CancelFunc {
	always := job.execution != nil || job.desired.Rewrite > 0 // also what the device has already
	if late, ok := s.running.session.(devices.LateConfirmer); ok && job.execution == nil {
		return s.begin(ctx, time.Time{}, func(ctx context.Context) writeResult {
			job.outcome, job.err = late.WriteBefore(ctx, limit, point, value, always)
			return job
		})
	}
	write := s.running.session.Write
	if always {
		write = s.running.session.Command
	}
	return s.begin(ctx, limit, func(ctx context.Context) writeResult {
		job.outcome, job.err = write(ctx, point, value)
		return job
	})
}

// writeGroup is write for the values of a group. Parts are their results, which it completes.
func (s *sessions) writeGroup(ctx context.Context, w devices.GroupWriter, values []devices.PointValue, always bool, limit time.Time, parts []writeResult) context.CancelFunc {
	return s.begin(ctx, limit, func(ctx context.Context) writeResult {
		for i, r := range w.WriteGroup(ctx, values, always) {
			parts[i].outcome, parts[i].err = r.Outcome, r.Err
		}
		return writeResult{group: parts}
	})
}

// begin runs a write in a goroutine of its own, until limit if there is one.
func (s *sessions) begin(ctx context.Context, limit time.Time, do func(context.Context) writeResult) context.CancelFunc {
	s.writing = true
	r := s.running
	wctx, cancel := context.WithCancel(ctx)
	if !limit.IsZero() {
		wctx, cancel = context.WithDeadline(ctx, limit)
	}
	go func() {
		// The end of the session ends the write, too.
		defer cancel()
		go func() {
			select {
			case <-r.done:
				cancel()
			case <-wctx.Done():
			}
		}()
		result := do(wctx)
		result.session = r.number
		s.results <- result
	}()
	return cancel
}
