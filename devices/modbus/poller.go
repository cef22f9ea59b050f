package modbus

import (
	"context"
	"errors"
	"hash/fnv"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/devices/internal/backoff"
	"github.com/petiole-io/petiole/devices/modbus/codec"
	"github.com/petiole-io/petiole/devices/modbus/link"
	"github.com/petiole-io/petiole/devices/modbus/plan"
	"github.com/petiole-io/petiole/devices/modbus/wire"
)

const (
	busyTries = 3
	busyWait  = 20 * time.Millisecond
)

// pollKey identifies a poller. Devices with the same key can share requests: theirs differ
// in nothing but the addresses.
type pollKey struct {
	settings settings // the ones that requests depend on; see settings.polling
	period   time.Duration
}

// poller reads the points that devices poll from one unit with one period. A register
// that several devices poll is read once for all of them.
type poller struct {
	key  pollKey
	link *link.Link
	log  *zap.Logger
	wake chan struct{}

	mu          sync.Mutex
	subscribers []*subscriber
	changed     bool

	// The fields below belong to the goroutine of run.
	group  *plan.Group
	points []polled // of all devices, in the order of the group
	blocks []block  // as planned by the group
	due    time.Time
}

// subscriber is a device that uses a poller.
type subscriber struct {
	ctx    context.Context //nolint:containedctx // it ends the subscription
	points []*point        // of the poller's period
	mail   *mailbox
}

// polled is a point of a poller, with the device that it belongs to.
type polled struct {
	*point
	owner *subscriber
}

// readResult is the result of one request, for one device. Points are those of the device.
type readResult struct {
	points []polled
	start  int
	data   []byte
	at     time.Time
	err    error
}

func newPoller(k pollKey, l *link.Link, log *zap.Logger) *poller {
	return &poller{
		key: k, link: l, log: log.With(zap.String("link", k.settings.endpoint.String()), zap.Uint8("unit", k.settings.unit)),
		wake: make(chan struct{}, 1), due: k.firstDue(time.Now()), group: newGroup(&k.settings),
	}
}

// slots is the number of times in a period at which units are polled. Those that are polled at the same
// time share what it costs to wake the process: 500 devices, once a second, take half the processor time.
const slots = 50

// started is the time from which slots are counted.
var started = time.Now()

// firstDue returns the time of the first cycle, which is a period and a slot before now at most.
func (k pollKey) firstDue(now time.Time) time.Time {
	slot := max(k.period/slots, 1)
	return now.Add(-now.Sub(started)%slot - k.phase()/slot*slot)
}

// phase returns a fraction of the period that is fixed for each unit, so that units with
// the same period are not polled in step.
func (k pollKey) phase() time.Duration {
	h := fnv.New64a()
	_, _ = h.Write(append([]byte(k.settings.endpoint.Key()), k.settings.unit)) // never fails
	x := h.Sum64()
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9 // the keys of units are almost equal: mix well
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return time.Duration(float64(x>>11) / (1 << 53) * float64(k.period))
}

// add starts to poll the points of a device.
func (p *poller) add(s *subscriber) { p.change(func() { p.subscribers = append(p.subscribers, s) }) }

// remove stops polling the points of a device.
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

// run polls until ctx ends.
func (p *poller) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		p.updateGroup(time.Now())
		timer.Reset(time.Until(p.due))
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
			continue
		case <-timer.C:
		}
		p.cycle(ctx)
		p.awaitRoom(ctx)
		p.due = nextDue(p.due, p.key.period, time.Now())
	}
}

// awaitRoom waits for devices that are behind with their results.
func (p *poller) awaitRoom(ctx context.Context) {
	p.mu.Lock()
	all := slices.Clone(p.subscribers)
	p.mu.Unlock()
	for _, s := range all {
		s.mail.awaitRoom(ctx, s.ctx)
	}
}

// updateGroup takes over changes of the subscribers. The first cycle of a new device comes
// at once; the later ones keep their times.
func (p *poller) updateGroup(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.changed {
		return
	}
	p.changed = false
	known := map[*subscriber]bool{}
	for i := range p.points {
		known[p.points[i].owner] = true
	}
	var points []polled
	for _, s := range p.subscribers {
		for _, pt := range s.points {
			points = append(points, polled{pt, s})
			if !known[s] {
				p.group.Include(pt.Range())
			}
		}
		if !known[s] && p.due.After(now) {
			p.due = p.due.Add(-p.key.period)
		}
	}
	p.setPoints(points)
}

func (p *poller) setPoints(points []polled) {
	p.points = points
	ranges := make([]codec.Range, len(points))
	for i := range points {
		ranges[i] = points[i].Range()
	}
	p.group.SetPoints(ranges)
}

// block is one request of a poller. Parts has the points of each device.
type block struct {
	plan.Block
	parts [][]polled
}

// newGroup returns a group without points for a unit with these settings.
func newGroup(s *settings) *plan.Group {
	forbidden, _ := codec.ParseRanges(s.forbidden) // validated when the settings were read
	return plan.NewGroup(s.limits(), plan.LineCost(s.endpoint), forbidden)
}

// refresh takes over the blocks of the group if they were planned again.
func (p *poller) refresh(now time.Time) {
	if !p.group.Refresh(now) {
		return
	}
	p.blocks = nil
	for _, b := range p.group.Blocks() {
		p.blocks = append(p.blocks, p.block(b))
	}
}

// block divides the points of a planned block by device.
func (p *poller) block(b plan.Block) block {
	out := block{Block: b}
	at := map[*subscriber]int{}
	for _, x := range b.Points {
		pt := p.points[x.Index]
		i, known := at[pt.owner]
		if !known {
			i = len(out.parts)
			at[pt.owner] = i
			out.parts = append(out.parts, nil)
		}
		out.parts[i] = append(out.parts[i], pt)
	}
	return out
}

// nextDue returns the first multiple of the period after due that is not in the past.
// Missed cycles are not made up for.
func nextDue(due time.Time, period time.Duration, now time.Time) time.Time {
	late := now.Sub(due)
	if late < period {
		return due.Add(period)
	}
	return due.Add((late/period + 1) * period)
}

// pollRequest is one request of a cycle, with the retries that are left.
type pollRequest struct {
	block   block
	read    *link.ReadRequest
	err     error
	retries int
	busy    int
	pause   time.Duration
	done    chan *pollRequest
}

// cycle reads all points once. It submits all requests at the same time, so that the link
// never idles between them.
func (p *poller) cycle(ctx context.Context) {
	p.refresh(time.Now())
	done := make(chan *pollRequest, len(p.blocks))
	for _, b := range p.blocks {
		p.submit(ctx, p.request(b, done))
	}
	var illegal []block
	for range p.blocks {
		r := p.await(ctx, done)
		if r == nil {
			return
		}
		if link.IllegalRange(r.err) && len(r.block.Points) > 1 {
			illegal = append(illegal, r.block)
			continue
		}
		p.finish(r)
	}
	for _, b := range illegal {
		p.explore(ctx, b)
	}
}

// read reads one block now, with all retries. It returns nil if ctx ends first.
func (p *poller) read(ctx context.Context, b block) *pollRequest {
	done := make(chan *pollRequest, 1)
	p.submit(ctx, p.request(b, done))
	return p.await(ctx, done)
}

func (p *poller) request(b block, done chan *pollRequest) *pollRequest {
	return &pollRequest{block: b, retries: p.key.settings.retries, busy: busyTries, pause: busyWait, done: done}
}

func (p *poller) submit(ctx context.Context, r *pollRequest) {
	j := &link.Job{Ctx: ctx, Priority: link.Poll, Due: p.due, Unit: p.key.settings.unit, Settings: &p.key.settings.Settings}
	if time.Since(p.due) > p.key.period {
		j.Priority = link.Overdue
	}
	r.read = &link.ReadRequest{Table: r.block.Table, Start: r.block.Start, Count: r.block.Count}
	j.Read = r.read
	if r.inParts(&p.key.settings) {
		j.Read = nil
		j.Do = func(u *link.Unit) (err error) {
			r.read.Data, err = u.ReadPoint(&r.block.parts[0][0].Point)
			r.read.At = u.At
			return err
		}
	}
	j.Finish = func(err error) {
		if r.err = err; err == nil { // at once, so that results stay in order
			r.deliver(r.read.At)
		}
		r.done <- r
	}
	p.link.Submit(j)
}

// inParts reports whether the request reads a value register by register.
func (r *pollRequest) inParts(s *settings) bool {
	return s.SingleRegisters && r.block.Count > 1 && !r.block.Table.Bits()
}

// await waits for a request to end for good, after its retries. It returns nil if ctx ends
// first.
func (p *poller) await(ctx context.Context, done chan *pollRequest) *pollRequest {
	for {
		var r *pollRequest
		select {
		case <-ctx.Done():
			return nil
		case r = <-done:
		}
		switch {
		case errors.Is(r.err, link.ErrBusy) && r.busy > 0:
			r.busy--
			backoff.Sleep(ctx, r.pause)
			r.pause *= 2
		case (errors.Is(r.err, wire.ErrTimeout) || errors.Is(r.err, wire.ErrGarbled)) && r.retries > 0:
			r.retries--
		default:
			return r
		}
		p.submit(ctx, r)
	}
}

// finish delivers the failure of a request, and excludes a point that the unit refuses.
func (p *poller) finish(r *pollRequest) {
	if r.err == nil {
		return // delivered when the reply came
	}
	r.deliver(time.Now())
	if link.IllegalRange(r.err) {
		p.group.Exclude(r.block.Points[0].Range, time.Now())
	}
}

// deliver passes its part of the result to every device. It does not block.
func (r *pollRequest) deliver(at time.Time) {
	for _, part := range r.block.parts {
		part[0].owner.mail.put(readResult{points: part, start: r.block.Start, data: r.read.Data, at: at, err: r.err})
	}
}
