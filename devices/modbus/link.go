package modbus

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/goburrow/modbus"
	"go.uber.org/zap"
)

const (
	redialFirst = 100 * time.Millisecond
	redialMax   = 5 * time.Second
	// halfOpen is after how many unanswered requests in a row, of any unit, a
	// connection is taken for dead.
	halfOpen = 3
)

// link owns one connection and does one job after another on it. Everything below
// silent belongs to the goroutine of run.
type link struct {
	endpoint endpoint
	log      *zap.Logger
	queue    *queue
	jobs     func() int // devices that use the link
	// silent marks the units that do not answer at present.
	silent [256]atomic.Bool

	wire     *wire
	peers    map[byte]*peer
	redialAt time.Time
	redial   time.Duration
	downErr  error         // why the link is down, nil while it is up
	mute     int           // unanswered requests in a row
	muteOf   map[byte]bool // the units they went to
	confused bool          // the last answer was garbled
	// latencies are those of all units.
	latencies latencies
}

// peer is what a link knows of a unit.
type peer struct {
	client    modbus.Client
	packager  modbus.Packager
	breaker   breaker
	latencies latencies
	// proven tells that the unit answered on this connection, and has not missed since.
	proven bool
	// unmasked tells that the unit does not know function 22.
	unmasked bool
}

func newLink(e endpoint, users func() int, log *zap.Logger) *link {
	l := &link{endpoint: e, log: log.With(zap.String("link", e.String())), queue: newQueue(), jobs: users, peers: map[byte]*peer{}, muteOf: map[byte]bool{}}
	l.wire = newWire(e)
	l.wire.log = l.log
	return l
}

// run does jobs until ctx ends, and then refuses those that wait.
func (l *link) run(ctx context.Context) {
	for {
		j := l.queue.take(ctx)
		if j == nil || ctx.Err() != nil {
			if j != nil {
				j.end(errStopped)
			}
			break
		}
		switch {
		case !j.take():
			j.end(errStopped)
		case pipelined(j):
			l.pipeline(ctx, j)
		default:
			j.end(l.execute(ctx, j))
		}
	}
	for _, j := range l.queue.close() {
		j.end(errStopped)
	}
	l.wire.disconnect()
}

// take claims a job; false means that nobody wants its result any more.
func (j *job) take() bool { return !j.taken.Swap(true) && j.ctx.Err() == nil }

// submit queues a job. It does not block.
func (l *link) submit(j *job) {
	if j.priority != prioCommand && j.priority != prioWrite && l.silent[j.unit].Load() {
		j.priority = prioProbe
	}
	if !l.queue.put(j) {
		j.end(errStopped)
	}
}

// do has a job done and waits for its end. When the job's context ends before, it
// does not wait, unless the job is under way and to be finished.
func (l *link) do(j *job, finish bool) error {
	done := make(chan error, 1)
	j.end = func(err error) { done <- err }
	l.submit(j)
	select {
	case err := <-done:
		return err
	case <-j.ctx.Done():
	}
	if j.taken.Swap(true) && finish {
		return <-done
	}
	return fmt.Errorf("%w: %w", errStopped, j.ctx.Err())
}

// execute is one job. A silent unit is refused at once between its probes, and a
// link that is down between its redials, so that neither holds up the others.
func (l *link) execute(ctx context.Context, j *job) error {
	p := l.peer(j.unit)
	if !p.breaker.allows(time.Now()) {
		return errSilent
	}
	if err := l.connect(ctx, j.settings); err != nil {
		return err
	}
	u := &unit{link: l, ctx: ctx, wish: j.ctx, id: j.unit, settings: j.settings, peer: p}
	if j.ask == nil {
		return j.do(u)
	}
	var err error
	j.ask.data, err = u.read(j.ask.table, j.ask.start, j.ask.count)
	j.ask.at = u.at
	return err
}

func (l *link) peer(id byte) *peer {
	p := l.peers[id]
	if p == nil {
		packager := l.wire.framing.packager(id)
		p = &peer{packager: packager, client: modbus.NewClient2(packager, l.wire)}
		l.peers[id] = p
	}
	return p
}

// connect opens the connection when it is closed and a redial is due.
func (l *link) connect(ctx context.Context, s *settings) error {
	if l.wire.conn != nil {
		return nil
	}
	if time.Now().Before(l.redialAt) {
		return l.downErr
	}
	opened, err := l.wire.connect(ctx, s.timeout)
	if err != nil {
		l.down(err)
		return err
	}
	if opened {
		l.hear()
		for _, p := range l.peers {
			p.proven = false
		}
		l.log.Debug("link connected")
		if s.afterConnect > 0 {
			wait(ctx, s.afterConnect)
		}
	}
	return nil
}

// down puts the next dial off.
func (l *link) down(err error) {
	l.redial = min(max(2*l.redial, redialFirst), redialMax)
	l.redialAt = time.Now().Add(l.redial - time.Duration(rand.Float64()*float64(l.redial)/4)) // jitter
	if l.downErr == nil {
		l.log.Warn("link down", zap.Error(err), zap.Stringers("frames", l.wire.frames.list()))
	}
	l.downErr = err
}

// up is called when something was answered.
func (l *link) up() {
	if l.downErr != nil {
		l.log.Info("link up")
	}
	l.downErr, l.redial, l.redialAt, l.confused = nil, 0, time.Time{}, false
	l.hear()
}

// halfOpen tells that the connection is most likely one without another side: several
// units are silent, or the only one that is in use.
func (l *link) halfOpen() bool {
	if l.mute < halfOpen || l.wire.datagram {
		return false
	}
	for _, p := range l.peers {
		if p.proven && len(l.muteOf) < halfOpen {
			return false
		}
	}
	return true
}

// hear forgets what was not answered.
func (l *link) hear() {
	l.mute = 0
	clear(l.muteOf)
}

// garbled tells of an answer that makes no sense, the first of a row.
func (l *link) garbled(err error) {
	if !l.confused {
		l.log.Warn("answer garbled", zap.Error(err), zap.Stringers("frames", l.wire.frames.list()))
	}
	l.confused = true
}

// judge draws the conclusions for unit and link from the end of a transaction.
func (l *link) judge(u *unit, err error) error {
	switch {
	case errors.Is(err, errTimeout):
		u.missed()
		l.mute++
		l.muteOf[u.id] = true
		if l.halfOpen() {
			l.hear()
			l.wire.disconnect()
		}
	case errors.Is(err, errLink):
		l.down(err)
	case errors.Is(err, errGarbled):
		l.wire.disconnect()
		l.garbled(err)
	case exception(err) == excGatewayPath || exception(err) == excGatewayTarget:
		l.up()
		u.missed()
		return fmt.Errorf("%w: %w", errGateway, err)
	case exception(err) == excBusy || exception(err) == excAcknowledge:
		l.up()
		u.answered()
		return fmt.Errorf("%w: %w", errBusy, err)
	default: // an answer, be it another exception
		l.up()
		u.answered()
	}
	return err
}
