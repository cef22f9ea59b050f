package modbus

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/devices/internal/backoff"
	"github.com/petiole-io/petiole/devices/modbus/wire"
)

const (
	redialFirst = 100 * time.Millisecond
	redialMax   = 5 * time.Second
	// halfOpen is the number of unanswered requests in a row, to any units, after which a
	// connection may be considered dead.
	halfOpen = 3
)

// link owns one connection and runs jobs on it, one after the other. The fields below
// silent belong to the goroutine of run.
type link struct {
	endpoint wire.Endpoint
	log      *zap.Logger
	queue    *queue
	users    func() int // number of devices that use the link
	// silent marks the units that do not respond at present.
	silent [256]atomic.Bool

	wire            *wire.Transport
	peers           map[byte]*peer
	redialAt        time.Time
	redial          backoff.Backoff
	downErr         error         // why the link is down, nil while it is up
	unanswered      int           // number of unanswered requests in a row
	unansweredUnits map[byte]bool // the units that they went to
	garbledLast     bool          // the last reply was garbled
	// latencies covers all units of the link.
	latencies latencies
}

// peer is the state that a link keeps for one unit.
type peer struct {
	wire      *wire.Unit
	breaker   breaker
	latencies latencies
	// answering reports whether the unit has replied on this connection, and to the last
	// request.
	answering bool
	// noMaskWrite reports that the unit does not support function 22.
	noMaskWrite bool
}

func newLink(e wire.Endpoint, users func() int, log *zap.Logger) *link {
	l := &link{endpoint: e, log: log.With(zap.String("link", e.String())), queue: newQueue(), users: users, peers: map[byte]*peer{}, unansweredUnits: map[byte]bool{}, redial: backoff.Backoff{First: redialFirst, Max: redialMax}}
	l.wire = wire.New(e, l.log)
	return l
}

// run executes jobs until ctx ends, and then ends those that wait with errStopped.
func (l *link) run(ctx context.Context) {
	for {
		j := l.queue.pop(ctx)
		if j == nil || ctx.Err() != nil {
			if j != nil {
				j.finish(errStopped)
			}
			break
		}
		switch {
		case !j.claim():
			j.finish(errStopped)
		case pipelined(j):
			l.pipeline(ctx, j)
		default:
			j.finish(l.execute(ctx, j))
		}
	}
	for _, j := range l.queue.close() {
		j.finish(errStopped)
	}
	l.wire.Close()
}

// claim marks a job as begun. It returns false when its caller has given up.
func (j *job) claim() bool { return !j.claimed.Swap(true) && j.ctx.Err() == nil }

// submit queues a job. It does not block.
func (l *link) submit(j *job) {
	if j.priority != prioCommand && j.priority != prioWrite && l.silent[j.unit].Load() {
		j.priority = prioProbe
	}
	if !l.queue.put(j) {
		j.finish(errStopped)
	}
}

// do submits a job and waits for its end. If the job's context ends first, do returns at
// once, unless the job has begun and finish is set.
func (l *link) do(j *job, finish bool) error {
	done := make(chan error, 1)
	j.finish = func(err error) { done <- err }
	l.submit(j)
	select {
	case err := <-done:
		return err
	case <-j.ctx.Done():
	}
	if j.claimed.Swap(true) && finish {
		return <-done
	}
	return fmt.Errorf("%w: %w", errStopped, j.ctx.Err())
}

// execute runs one job. It fails at once for a silent unit between its probes, and for a
// link that is down between its dials, so that neither holds up other jobs.
func (l *link) execute(ctx context.Context, j *job) error {
	p := l.peer(j.unit)
	if !p.breaker.allows(time.Now()) {
		return errSilent
	}
	if err := l.connect(ctx, j.settings); err != nil {
		return err
	}
	u := &unit{link: l, ctx: ctx, caller: j.ctx, id: j.unit, settings: j.settings, peer: p}
	if j.read == nil {
		return j.do(u)
	}
	var err error
	j.read.data, err = u.read(j.read.table, j.read.start, j.read.count)
	j.read.at = u.at
	return err
}

func (l *link) peer(id byte) *peer {
	p := l.peers[id]
	if p == nil {
		p = &peer{wire: l.wire.Unit(id)}
		l.peers[id] = p
	}
	return p
}

// connect opens the connection if it is closed. It fails at once until the next dial is
// due.
func (l *link) connect(ctx context.Context, s *settings) error {
	if l.wire.IsOpen() {
		return nil
	}
	if time.Now().Before(l.redialAt) {
		return l.downErr
	}
	if err := l.wire.Open(ctx, s.timeout); err != nil {
		l.down(err)
		return err
	}
	l.resetUnanswered()
	for _, p := range l.peers {
		p.answering = false
	}
	l.log.Debug("link connected")
	if s.afterConnect > 0 {
		backoff.Sleep(ctx, s.afterConnect)
	}
	return nil
}

// down records that the connection was lost or could not be opened, and schedules the
// next dial.
func (l *link) down(err error) {
	pause := l.redial.Next()
	l.redialAt = time.Now().Add(pause - time.Duration(rand.Float64()*float64(pause)/4)) // jitter
	if l.downErr == nil {
		l.log.Warn("link down", zap.Error(err), zap.Stringers("frames", l.wire.Frames()))
	}
	l.downErr = err
}

// up records that a unit has replied.
func (l *link) up() {
	if l.downErr != nil {
		l.log.Info("link up")
	}
	l.downErr, l.redialAt, l.garbledLast = nil, time.Time{}, false
	l.redial.Reset()
	l.resetUnanswered()
}

// halfOpen reports whether the connection is most likely dead although it is open:
// several units are silent, or the only one in use is.
func (l *link) halfOpen() bool {
	if l.unanswered < halfOpen || l.endpoint.Mode == wire.UDP {
		return false
	}
	for _, p := range l.peers {
		if p.answering && len(l.unansweredUnits) < halfOpen {
			return false
		}
	}
	return true
}

// resetUnanswered starts to count unanswered requests again.
func (l *link) resetUnanswered() {
	l.unanswered = 0
	clear(l.unansweredUnits)
}

// garbled logs an invalid reply, if the one before it was valid.
func (l *link) garbled(err error) {
	if !l.garbledLast {
		l.log.Warn("reply is garbled, connection closed", zap.Error(err), zap.Stringers("frames", l.wire.Frames()))
	}
	l.garbledLast = true
}

// recordOutcome updates the state of unit and link after a transaction. It returns err,
// wrapped in the sentinel that describes it.
func (l *link) recordOutcome(u *unit, err error) error {
	switch {
	case errors.Is(err, wire.ErrTimeout):
		u.recordTimeout()
		l.unanswered++
		l.unansweredUnits[u.id] = true
		if l.halfOpen() {
			l.resetUnanswered()
			l.wire.Close()
		}
	case errors.Is(err, wire.ErrLink):
		l.down(err)
	case errors.Is(err, wire.ErrGarbled):
		l.wire.Close()
		l.garbled(err)
	case exception(err) == excGatewayPath || exception(err) == excGatewayTarget:
		l.up()
		u.recordTimeout()
		return fmt.Errorf("%w: %w", errGateway, err)
	case exception(err) == excBusy || exception(err) == excAcknowledge:
		l.up()
		u.recordAnswer()
		return fmt.Errorf("%w: %w", errBusy, err)
	default: // a reply, even if it is another exception
		l.up()
		u.recordAnswer()
	}
	return err
}
