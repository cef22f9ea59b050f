package link

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

// Link owns one connection and runs jobs on it, one after the other. The fields below
// silent belong to the goroutine of Run.
type Link struct {
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

// New returns the link of an endpoint. It does no I/O and starts nothing. Users returns the
// number of devices that use the link. Unanswered is that of all links of the endpoint, one after
// the other.
func New(e wire.Endpoint, unanswered *wire.Unanswered, users func() int, log *zap.Logger) *Link {
	l := &Link{endpoint: e, log: log.With(zap.String("link", e.String())), queue: newQueue(), users: users, peers: map[byte]*peer{}, unansweredUnits: map[byte]bool{}, redial: backoff.Backoff{First: redialFirst, Max: redialMax}}
	l.wire = wire.New(e, unanswered, l.log)
	return l
}

// Endpoint returns the endpoint of the link.
func (l *Link) Endpoint() wire.Endpoint { return l.endpoint }

// Frames returns the last frames that were sent and received, oldest first. It may be called
// after Run has returned.
func (l *Link) Frames() []fmt.Stringer { return l.wire.Frames() }

// Run executes jobs until ctx ends, and then ends those that wait with errStopped.
func (l *Link) Run(ctx context.Context) {
	for {
		j := l.queue.pop(ctx)
		if j == nil || ctx.Err() != nil {
			if j != nil {
				j.Finish(ErrStopped)
			}
			break
		}
		switch {
		case !j.claim():
			j.Finish(ErrStopped)
		case pipelined(j):
			l.pipeline(ctx, j)
		default:
			j.Finish(l.execute(ctx, j))
		}
	}
	for _, j := range l.queue.close() {
		j.Finish(ErrStopped)
	}
	l.wire.Close()
}

// claim marks a job as begun. It returns false when its caller has given up.
func (j *Job) claim() bool { return !j.claimed.Swap(true) && j.Ctx.Err() == nil }

// Submit queues a job. It does not block.
func (l *Link) Submit(j *Job) {
	if j.Priority != Command && j.Priority != Write && l.silent[j.Unit].Load() {
		j.Priority = Probe
	}
	if !l.queue.put(j) {
		j.Finish(ErrStopped)
	}
}

// Do submits a job and waits for its end. If the job's context ends first, Do returns at
// once, unless the job has begun and finish is set.
func (l *Link) Do(j *Job, finish bool) error {
	done := make(chan error, 1)
	j.Finish = func(err error) { done <- err }
	l.Submit(j)
	select {
	case err := <-done:
		return err
	case <-j.Ctx.Done():
	}
	if j.claimed.Swap(true) && finish {
		return <-done
	}
	return fmt.Errorf("%w: %w", ErrStopped, j.Ctx.Err())
}

// execute runs one job. It fails at once for a silent unit between its probes, and for a
// link that is down between its dials, so that neither holds up other jobs.
func (l *Link) execute(ctx context.Context, j *Job) error {
	p := l.peer(j.Unit)
	if !p.breaker.allows(time.Now()) {
		return errSilent
	}
	if err := l.connect(ctx, j.Settings); err != nil {
		return err
	}
	u := &Unit{link: l, ctx: ctx, caller: j.Ctx, id: j.Unit, settings: j.Settings, peer: p}
	if j.Read == nil {
		return j.Do(u)
	}
	var err error
	j.Read.Data, err = u.Read(j.Read.Table, j.Read.Start, j.Read.Count)
	j.Read.At = u.At
	return err
}

func (l *Link) peer(id byte) *peer {
	p := l.peers[id]
	if p == nil {
		p = &peer{wire: l.wire.Unit(id)}
		l.peers[id] = p
	}
	return p
}

// connect opens the connection if it is closed. It fails at once until the next dial is
// due.
func (l *Link) connect(ctx context.Context, s *Settings) error {
	if l.wire.IsOpen() {
		return nil
	}
	if time.Now().Before(l.redialAt) {
		return l.downErr
	}
	if err := l.wire.Open(ctx, s.Timeout); err != nil {
		l.down(err)
		return err
	}
	l.resetUnanswered()
	for _, p := range l.peers {
		p.answering = false
	}
	l.log.Debug("link connected")
	if s.AfterConnect > 0 {
		backoff.Sleep(ctx, s.AfterConnect)
	}
	return nil
}

// down records that the connection was lost or could not be opened, and schedules the
// next dial.
func (l *Link) down(err error) {
	pause := l.redial.Next()
	l.redialAt = time.Now().Add(pause - time.Duration(rand.Float64()*float64(pause)/4)) // jitter
	if l.downErr == nil {
		l.log.Warn("link down", zap.Error(err), zap.Stringers("frames", l.wire.Frames()))
	}
	l.downErr = err
}

// up records that a unit has replied.
func (l *Link) up() {
	if l.downErr != nil {
		l.log.Info("link up")
	}
	l.downErr, l.redialAt, l.garbledLast = nil, time.Time{}, false
	l.redial.Reset()
	l.resetUnanswered()
}

// halfOpen reports whether the connection is most likely dead although it is open:
// several units are silent, or the only one in use is.
func (l *Link) halfOpen() bool {
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
func (l *Link) resetUnanswered() {
	l.unanswered = 0
	clear(l.unansweredUnits)
}

// garbled logs an invalid reply, if the one before it was valid.
func (l *Link) garbled(err error) {
	if !l.garbledLast {
		l.log.Warn("reply is garbled, connection closed", zap.Error(err), zap.Stringers("frames", l.wire.Frames()))
	}
	l.garbledLast = true
}

// recordOutcome updates the state of unit and link after a transaction. It returns err,
// wrapped in the sentinel that describes it.
func (l *Link) recordOutcome(u *Unit, err error) error {
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
	case Exception(err) == GatewayPath || Exception(err) == GatewayTarget:
		l.up()
		u.recordTimeout()
		return fmt.Errorf("%w: %w", errGateway, err)
	case Exception(err) == Busy || Exception(err) == Acknowledge:
		l.up()
		u.recordAnswer()
		return fmt.Errorf("%w: %w", ErrBusy, err)
	default: // a reply, even if it is another exception
		l.up()
		u.recordAnswer()
	}
	return err
}
