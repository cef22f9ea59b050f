package modbus

import (
	"context"
	"errors"
	"hash/fnv"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/devices"
)

const (
	// holeMemory is how long a refused range is not asked for again.
	holeMemory = 30 * time.Minute
	busyTries  = 3
	busyWait   = 20 * time.Millisecond
	// A port that is in use with other settings is tried again after conflictWait, and
	// reported after conflictTries.
	conflictWait  = 200 * time.Millisecond
	conflictTries = 3
)

// session operates one device.
type session struct {
	driver   *Driver
	def      devices.Definition
	settings *settings
	points   []point
	log      *zap.Logger

	mu      sync.Mutex
	link    *link
	deliver func(devices.Batch)
}

// group is the points that are read with one period, with the plan to read them.
type group struct {
	period time.Duration
	points []point
	blocks []block
	holes  []hole
	limits limits
	// refused are points, by index, that lie in holes themselves.
	refused map[int]bool
	// expires is when holes, refused points and limits are forgotten.
	expires time.Time
	stale   bool // the blocks are to be planned again
	due     time.Time
}

// Run polls until ctx ends.
func (s *session) Run(ctx context.Context, deliver func(devices.Batch)) error {
	l := s.acquire(ctx, deliver)
	if l == nil {
		return nil
	}
	defer s.driver.release(s.settings.endpoint)
	s.attach(l, deliver)
	defer s.attach(nil, nil)

	groups := s.groups(time.Now())
	if len(groups) == 0 {
		<-ctx.Done()
		return nil
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		g := first(groups)
		timer.Reset(time.Until(g.due))
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		s.poll(ctx, l, g, deliver)
		g.due = following(g.due, g.period, time.Now())
	}
}

// acquire waits for the link; nil means that ctx ended. A serial port may still be
// in use with the settings that this session replaces.
func (s *session) acquire(ctx context.Context, deliver func(devices.Batch)) *link {
	for tries := 1; ctx.Err() == nil; tries++ {
		l, err := s.driver.acquire(s.settings.endpoint)
		if err == nil {
			return l
		}
		if tries >= conflictTries {
			deliver(devices.Batch{Reason: reason(err), Message: err.Error(), Time: time.Now()})
		}
		wait(ctx, conflictWait)
	}
	return nil
}

func (s *session) attach(l *link, deliver func(devices.Batch)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.link, s.deliver = l, deliver
}

// groups plans the points of each period. The first cycle comes at once; the later
// ones are spread, so that devices of one period do not ask in step.
func (s *session) groups(now time.Time) []*group {
	var groups []*group
	for _, p := range s.points {
		var g *group
		for _, x := range groups {
			if x.period == p.cycle {
				g = x
			}
		}
		if g == nil {
			g = &group{period: p.cycle, due: now, limits: s.limits()}
			groups = append(groups, g)
		}
		g.points = append(g.points, p)
	}
	for _, g := range groups {
		s.replan(g)
		g.due = now.Add(-phase(s.def.Device.String(), g.period))
	}
	return groups
}

func (s *session) replan(g *group) {
	g.stale = false
	g.blocks = plan(g.usable(), g.limits, lineCost(s.settings.endpoint, turnaround), g.holes)
}

// phase is a fixed part of the period for each name.
func phase(name string, period time.Duration) time.Duration {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name)) // never fails
	return time.Duration(uint64(h.Sum32()) * uint64(period) >> 32)
}

func first(groups []*group) *group {
	g := groups[0]
	for _, x := range groups[1:] {
		if x.due.Before(g.due) {
			g = x
		}
	}
	return g
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

// poll reads every block of a group, and each block's points become one batch.
func (s *session) poll(ctx context.Context, l *link, g *group, deliver func(devices.Batch)) {
	if !g.expires.IsZero() && time.Now().After(g.expires) {
		g.forget(s.limits())
	}
	if g.stale {
		s.replan(g)
	}
	for _, b := range g.blocks {
		data, at, err := s.read(ctx, l, g, b.table, b.start, b.count)
		if ctx.Err() != nil {
			return
		}
		if err != nil && illegalRange(err) && len(b.points) > 1 {
			s.explore(ctx, l, g, b, deliver)
			continue
		}
		deliver(s.batch(b, data, at, err))
		if err != nil && illegalRange(err) {
			g.refuse(b.points[0])
			g.expires, g.stale = time.Now().Add(holeMemory), true
		}
	}
}

// answer is what a job brings back. It is read only after the job is done.
type answer struct {
	data []byte
	at   time.Time
}

// read asks once, and again as often as the settings and a busy unit want.
func (s *session) read(ctx context.Context, l *link, g *group, t table, start, count int) ([]byte, time.Time, error) {
	pauses := busyWait
	busy, retries := busyTries, s.settings.retries
	for {
		a := new(answer)
		j := &job{ctx: ctx, priority: prioPoll, due: g.due, unit: s.settings.unit, settings: s.settings}
		if time.Since(g.due) > g.period {
			j.priority = prioOverdue
		}
		j.do = func(u *unit) (err error) {
			a.data, err = u.read(t, start, count)
			a.at = u.at
			return err
		}
		err := l.do(j)
		switch {
		case err == nil:
			return a.data, a.at, nil
		case errors.Is(err, errBusy) && busy > 0:
			busy--
			wait(ctx, pauses)
			pauses *= 2
		case (errors.Is(err, errTimeout) || errors.Is(err, errGarbled)) && retries > 0:
			retries--
		default:
			return nil, time.Now(), err
		}
	}
}

// batch makes the readings of a block.
func (s *session) batch(b block, data []byte, at time.Time, err error) devices.Batch {
	out := devices.Batch{Reachable: !errors.Is(err, devices.ErrUnreachable) || errors.Is(err, errBusy), Time: at,
		Readings: make([]devices.Reading, 0, len(b.points))}
	if err != nil {
		out.Reason, out.Message = reason(err), err.Error()
		for _, p := range b.points {
			out.Readings = append(out.Readings, devices.Reading{Point: p.index, Quality: devices.Bad, Reason: out.Reason, Time: at})
		}
		return out
	}
	for _, p := range b.points {
		r := devices.Reading{Point: p.index, Quality: devices.Good, Time: at}
		v, err := p.decode(data, b.start)
		if err != nil {
			r.Quality, r.Reason = devices.Bad, err.Error()
		}
		r.Value = v
		out.Readings = append(out.Readings, r)
	}
	return out
}

// Write has a point written before anything else on the link.
func (s *session) Write(ctx context.Context, index int, value string) (devices.Outcome, error) {
	s.mu.Lock()
	l, deliver := s.link, s.deliver
	s.mu.Unlock()
	if l == nil {
		return devices.Outcome{}, errStopped
	}
	var p *point
	for i := range s.points {
		if s.points[i].index == index {
			p = &s.points[i]
		}
	}
	if p == nil {
		return devices.Outcome{}, notValid("the property has no usable settings")
	}
	w := new(wrote)
	j := &job{ctx: ctx, priority: prioWrite, due: time.Now(), unit: s.settings.unit, settings: s.settings, finish: true}
	j.do = func(u *unit) (err error) {
		w.outcome, w.value, err = u.write(*p, value)
		w.at = u.at
		return err
	}
	err := l.do(j)
	if errors.Is(err, errStopped) {
		return devices.Outcome{}, err
	}
	if w.value.Kind() != devices.None { // the twin need not wait for the next poll
		r := devices.Reading{Point: index, Value: w.value, Quality: devices.Good, Time: w.at}
		deliver(devices.Batch{Readings: []devices.Reading{r}, Reachable: true, Time: w.at})
	}
	return w.outcome, err
}

// wrote is what a write brings back. It is read only after the job is done.
type wrote struct {
	outcome devices.Outcome
	value   devices.Value
	at      time.Time
}

func (s *session) limits() limits { return limits{s.settings.maxRegisters, s.settings.maxBits} }
