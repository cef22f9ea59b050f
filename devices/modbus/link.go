package modbus

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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
// queue belongs to the goroutine of run.
type link struct {
	endpoint endpoint
	log      *zap.Logger
	queue    *queue
	jobs     func() int // devices that use the link

	wire     *wire
	clients  map[byte]modbus.Client
	breakers map[byte]*breaker
	redialAt time.Time
	redial   time.Duration
	downErr  error // why the link is down, nil while it is up
	mute     int   // unanswered requests in a row
	opened   time.Time
}

func newLink(e endpoint, users func() int, log *zap.Logger) *link {
	l := &link{endpoint: e, log: log.With(zap.String("link", e.String())), queue: newQueue(), jobs: users,
		clients: map[byte]modbus.Client{}, breakers: map[byte]*breaker{}}
	switch e.mode {
	case modeTLS:
		l.wire = newTLS(e)
	case modeUDP:
		l.wire = newUDP(e)
	case modeRTUOverTCP:
		l.wire = newRTUOverTCP(e)
	case modeRTU:
		l.wire = newSerial(e)
	default:
		l.wire = newTCP(e)
	}
	return l
}

// run does jobs until ctx ends, and then refuses those that wait.
func (l *link) run(ctx context.Context) {
	for {
		j := l.queue.take(ctx)
		if j == nil || ctx.Err() != nil {
			if j != nil {
				j.done <- errStopped
			}
			break
		}
		if j.taken.Swap(true) || j.ctx.Err() != nil {
			j.done <- errStopped
			continue
		}
		j.done <- l.execute(ctx, j)
	}
	for _, j := range l.queue.close() {
		j.done <- errStopped
	}
	l.wire.disconnect()
}

// do has a job done and waits for its end. When the job's context ends before, it
// does not wait, unless the job is under way and to be finished.
func (l *link) do(j *job) error {
	j.done = make(chan error, 1)
	if !l.queue.put(j) {
		return errStopped
	}
	select {
	case err := <-j.done:
		return err
	case <-j.ctx.Done():
	}
	if j.taken.Swap(true) && j.finish {
		return <-j.done
	}
	return errStopped
}

// execute is one job. A silent unit is refused at once between its probes, and a
// link that is down between its redials, so that neither holds up the others.
func (l *link) execute(ctx context.Context, j *job) error {
	b := l.breakers[j.unit]
	if b == nil {
		b = &breaker{}
		l.breakers[j.unit] = b
	}
	if !b.allows(time.Now()) {
		return errSilent
	}
	if err := l.connect(ctx, j.settings); err != nil {
		return err
	}
	u := &unit{link: l, ctx: ctx, id: j.unit, settings: j.settings, breaker: b, client: l.client(j.unit)}
	return j.do(u)
}

func (l *link) client(id byte) modbus.Client {
	c := l.clients[id]
	if c == nil {
		c = modbus.NewClient2(l.wire.framing.packager(id), l.wire)
		l.clients[id] = c
	}
	return c
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
		l.mute, l.opened = 0, time.Now()
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
	l.redialAt = time.Now().Add(l.redial - time.Duration(rand.Float64()*float64(l.redial)/4)) //nolint:gosec // jitter
	if l.downErr == nil {
		l.log.Warn("link down", zap.Error(err))
	}
	l.downErr = err
}

// up is called when something was answered.
func (l *link) up() {
	if l.downErr != nil {
		l.log.Info("link up")
	}
	l.downErr, l.redial, l.redialAt, l.mute = nil, 0, time.Time{}, 0
}

// unit is one unit while a job is done on its link. It belongs to the link's
// goroutine.
type unit struct {
	link     *link
	ctx      context.Context //nolint:containedctx // a unit lives as long as one job
	id       byte
	settings *settings
	breaker  *breaker
	client   modbus.Client
	// at is the middle of the last transaction.
	at time.Time
}

// call is one transaction. Resend tells that it may be sent twice without harm: it
// is, when the connection proves to have been closed before.
func (u *unit) call(resend bool, do func(modbus.Client) ([]byte, error)) ([]byte, error) {
	l := u.link
	if err := l.connect(u.ctx, u.settings); err != nil { // lost earlier in the same job
		return nil, err
	}
	if rest := u.settings.between - time.Since(l.wire.end); u.settings.between > 0 && rest > 0 {
		wait(u.ctx, rest)
	}
	out, err := u.once(do)
	if resend && errors.Is(err, errClosed) {
		if err := l.connect(u.ctx, u.settings); err != nil {
			return nil, err
		}
		out, err = u.once(do)
	}
	return out, u.judge(err)
}

func (u *unit) once(do func(modbus.Client) ([]byte, error)) ([]byte, error) {
	w := u.link.wire
	w.timeout = u.settings.timeout
	out, err := do(u.client)
	u.at = w.begin.Add(w.end.Sub(w.begin) / 2)
	return out, err
}

// judge draws the conclusions for unit and link.
func (u *unit) judge(err error) error {
	l, now := u.link, time.Now()
	switch {
	case errors.Is(err, errTimeout):
		u.miss(now)
		if l.mute++; l.mute >= halfOpen && !l.wire.datagram {
			l.mute = 0
			l.wire.disconnect() // half open, most likely
		}
	case errors.Is(err, errLink):
		l.down(err)
	case errors.Is(err, errGarbled):
		l.wire.disconnect()
	case exception(err) == excGatewayPath || exception(err) == excGatewayTarget:
		l.up()
		u.miss(now)
		return fmt.Errorf("%w: %w", errGateway, err)
	case exception(err) == excBusy || exception(err) == excAcknowledge:
		l.up()
		u.breaker.answered()
		return fmt.Errorf("%w: %w", errBusy, err)
	default: // an answer, be it another exception
		l.up()
		u.breaker.answered()
	}
	return err
}

func (u *unit) miss(now time.Time) {
	silent := u.breaker.open()
	u.breaker.missed(now, longestStep(u.link.jobs() == 1, u.settings.timeout), rand.Float64()) //nolint:gosec // jitter
	if !silent && u.breaker.open() {
		u.link.log.Warn("unit silent", zap.Uint8("unit", u.id))
	}
}

// read reads registers, or packed bits.
func (u *unit) read(t table, start, count int) ([]byte, error) {
	return u.call(true, func(c modbus.Client) ([]byte, error) {
		switch t {
		case coils:
			return c.ReadCoils(uint16(start), uint16(count))
		case discretes:
			return c.ReadDiscreteInputs(uint16(start), uint16(count))
		case inputs:
			return c.ReadInputRegisters(uint16(start), uint16(count))
		default:
			return c.ReadHoldingRegisters(uint16(start), uint16(count))
		}
	})
}

// writeRegisters writes registers with one request: function 6 for a single one,
// else 16, unless the settings want another.
func (u *unit) writeRegisters(start int, wire []byte) error {
	_, err := u.call(false, func(c modbus.Client) ([]byte, error) {
		if len(wire) == 2 && u.settings.write != writeMultiple {
			return c.WriteSingleRegister(uint16(start), uint16(wire[0])<<8|uint16(wire[1]))
		}
		return c.WriteMultipleRegisters(uint16(start), uint16(len(wire)/2), wire)
	})
	return err
}

// writeBits writes coils with one request: function 5 for a single one, else 15.
func (u *unit) writeBits(start, count int, packed []byte) error {
	_, err := u.call(false, func(c modbus.Client) ([]byte, error) {
		if count == 1 && u.settings.write != writeMultiple {
			on := uint16(0)
			if packed[0]&1 == 1 {
				on = 0xff00
			}
			return c.WriteSingleCoil(uint16(start), on)
		}
		return c.WriteMultipleCoils(uint16(start), uint16(count), packed)
	})
	return err
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
