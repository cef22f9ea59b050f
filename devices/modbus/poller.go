package modbus

import (
	"context"
	"errors"
	"hash/fnv"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
)

const (
	busyTries = 3
	busyWait  = 20 * time.Millisecond
)

// pollKey tells which devices can be read together: those whose requests are the
// same in everything but the addresses.
type pollKey struct {
	settings settings // those that requests depend on
	period   time.Duration
}

// poller reads, over one link, what all devices want of one unit with one period. A
// register that several of them want is read once for all.
type poller struct {
	key  pollKey
	link *link
	log  *zap.Logger
	wake chan struct{}

	mu          sync.Mutex
	subscribers []*subscriber
	changed     bool

	// The rest belongs to the goroutine of run.
	group group
	due   time.Time
}

// subscriber is a device, as a poller sees it.
type subscriber struct {
	ctx    context.Context //nolint:containedctx // it ends the subscription
	points []point         // of the poller's period
	mail   *mailbox
}

// answered is the end of one request, for one device. Points are the device's.
type answered struct {
	points []point
	start  int
	data   []byte
	at     time.Time
	err    error
}

func newPoller(k pollKey, l *link, log *zap.Logger) *poller {
	now := time.Now()
	return &poller{
		key: k, link: l, log: log.With(zap.String("link", k.settings.endpoint.String()), zap.Uint8("unit", k.settings.unit)),
		wake: make(chan struct{}, 1), due: now.Add(-k.phase()), group: newGroup(&k.settings),
	}
}

// phase is a fixed part of the period for each unit, so that units of one period do
// not ask in step.
func (k pollKey) phase() time.Duration {
	h := fnv.New64a()
	_, _ = h.Write(append([]byte(k.settings.endpoint.key()), k.settings.unit)) // never fails
	x := h.Sum64()
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9 // units have almost equal names: mix well
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return time.Duration(float64(x>>11) / (1 << 53) * float64(k.period))
}

// add has a device's points read from now on.
func (p *poller) add(s *subscriber) { p.change(func() { p.subscribers = append(p.subscribers, s) }) }

// remove forgets a device.
func (p *poller) remove(s *subscriber) {
	p.change(func() {
		p.subscribers = slices.DeleteFunc(p.subscribers, func(x *subscriber) bool { return x == s })
	})
}

func (p *poller) change(do func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	do()
	p.changed = true
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// run reads until ctx ends.
func (p *poller) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		p.follow(time.Now())
		timer.Reset(time.Until(p.due))
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
			continue
		case <-timer.C:
		}
		p.cycle(ctx)
		p.pace(ctx)
		p.due = following(p.due, p.key.period, time.Now())
	}
}

// pace waits for devices that do not take their answers.
func (p *poller) pace(ctx context.Context) {
	p.mu.Lock()
	all := slices.Clone(p.subscribers)
	p.mu.Unlock()
	for _, s := range all {
		s.mail.room(ctx, s.ctx)
	}
}

// follow takes over who wants what. The first cycle of a device that is new comes at
// once; those after it come when they would have come.
func (p *poller) follow(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.changed {
		return
	}
	p.changed = false
	known := map[*subscriber]bool{}
	for i := range p.group.points {
		known[p.group.points[i].owner] = true
	}
	p.group.points = nil
	for _, s := range p.subscribers {
		for _, pt := range s.points {
			pt.owner = s
			p.group.points = append(p.group.points, pt)
			if !known[s] {
				delete(p.group.refused, pt.span())
			}
		}
		if !known[s] && p.due.After(now) {
			p.due = p.due.Add(-p.key.period)
		}
	}
	p.group.stale = true
}

// following is the first multiple of the period after due that is not past: missed
// cycles are not made up for.
func following(due time.Time, period time.Duration, now time.Time) time.Time {
	late := now.Sub(due)
	if late < period {
		return due.Add(period)
	}
	return due.Add((late/period + 1) * period)
}

// polled is one request of a cycle, with what it may still cost.
type polled struct {
	block   block
	ask     *ask
	err     error
	retries int
	busy    int
	pause   time.Duration
	done    chan *polled
}

// cycle reads everything once. All requests wait for the link at the same time, so
// that it never idles between them.
func (p *poller) cycle(ctx context.Context) {
	p.group.refresh(time.Now())
	blocks := p.group.blocks
	done := make(chan *polled, len(blocks))
	for _, b := range blocks {
		p.submit(ctx, p.request(b, done))
	}
	var illegal []block
	for range blocks {
		r := p.await(ctx, done)
		if r == nil {
			return
		}
		if illegalRange(r.err) && len(r.block.points) > 1 {
			illegal = append(illegal, r.block)
			continue
		}
		p.settle(r)
	}
	for _, b := range illegal {
		p.explore(ctx, b)
	}
}

// read has one block read now, with all retries; nil means that ctx ended.
func (p *poller) read(ctx context.Context, b block) *polled {
	done := make(chan *polled, 1)
	p.submit(ctx, p.request(b, done))
	return p.await(ctx, done)
}

func (p *poller) request(b block, done chan *polled) *polled {
	return &polled{block: b, retries: p.key.settings.retries, busy: busyTries, pause: busyWait, done: done}
}

func (p *poller) submit(ctx context.Context, r *polled) {
	j := &job{ctx: ctx, priority: prioPoll, due: p.due, unit: p.key.settings.unit, settings: &p.key.settings}
	if time.Since(p.due) > p.key.period {
		j.priority = prioOverdue
	}
	r.ask = &ask{table: r.block.table, start: r.block.start, count: r.block.count}
	j.ask = r.ask
	if r.inParts(&p.key.settings) {
		j.ask = nil
		j.do = func(u *unit) (err error) {
			r.ask.data, err = u.readPoint(&r.block.points[0])
			r.ask.at = u.at
			return err
		}
	}
	j.end = func(err error) {
		if r.err = err; err == nil { // at once, so that answers stay in their order
			r.deliver(r.ask.at)
		}
		r.done <- r
	}
	p.link.submit(j)
}

// inParts tells a value that is read register by register.
func (r *polled) inParts(s *settings) bool {
	return s.singleRegisters && r.block.count > 1 && !r.block.table.bits()
}

// await waits for the end of a request that is not asked again; nil means that ctx
// ended.
func (p *poller) await(ctx context.Context, done chan *polled) *polled {
	for {
		var r *polled
		select {
		case <-ctx.Done():
			return nil
		case r = <-done:
		}
		switch {
		case errors.Is(r.err, errBusy) && r.busy > 0:
			r.busy--
			wait(ctx, r.pause)
			r.pause *= 2
		case (errors.Is(r.err, errTimeout) || errors.Is(r.err, errGarbled)) && r.retries > 0:
			r.retries--
		default:
			return r
		}
		p.submit(ctx, r)
	}
}

// settle delivers the end of a request that failed, and learns from it.
func (p *poller) settle(r *polled) {
	if r.err == nil {
		return // delivered when it came
	}
	r.deliver(time.Now())
	if illegalRange(r.err) {
		p.group.refuse(&r.block.points[0])
	}
}

// deliver gives every device its part of an answer. It does not block.
func (r *polled) deliver(at time.Time) {
	for _, part := range r.block.parts {
		part[0].owner.mail.put(answered{points: part, start: r.block.start, data: r.ask.data, at: at, err: r.err})
	}
}
