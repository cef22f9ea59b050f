package modbus

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/devices"
)

const (
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

// Run has the device's points polled until ctx ends.
func (s *session) Run(ctx context.Context, deliver func(devices.Batch)) error {
	l := s.acquire(ctx, deliver)
	if l == nil {
		return nil
	}
	defer s.driver.release(s.settings.endpoint)
	s.attach(l, deliver)
	defer s.attach(nil, nil)

	ctx, cancel := context.WithCancel(ctx)
	mail := newMailbox()
	for period, points := range s.periods() {
		k := pollKey{settings: s.settings.polling(), period: period}
		sub := &subscriber{ctx: ctx, points: points, mail: mail}
		s.driver.subscribe(k, sub) //nolint:contextcheck // the poller outlives this subscriber
		defer s.driver.unsubscribe(k, sub)
	}
	defer cancel() // before the subscriptions end: a poller may wait for this device
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-mail.news:
		}
		for _, a := range mail.take() {
			if ctx.Err() != nil {
				return nil
			}
			deliver(s.batch(a))
		}
	}
}

// periods are the points to be polled, by period. Nobody answers a broadcast.
func (s *session) periods() map[time.Duration][]point {
	byPeriod := map[time.Duration][]point{}
	if s.settings.broadcasts() {
		return byPeriod
	}
	for _, p := range s.points {
		byPeriod[p.cycle] = append(byPeriod[p.cycle], p)
	}
	return byPeriod
}

// acquire waits for the link; nil means that ctx ended. A serial port may still be
// in use with the settings that this session replaces.
func (s *session) acquire(ctx context.Context, deliver func(devices.Batch)) *link {
	for tries := 1; ctx.Err() == nil; tries++ {
		l, err := s.driver.acquire(s.settings.endpoint) //nolint:contextcheck // the link outlives this session
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

// batch makes the readings of an answer.
func (s *session) batch(a answered) devices.Batch {
	out := devices.Batch{
		Reachable: !errors.Is(a.err, devices.ErrUnreachable) || errors.Is(a.err, errBusy), Time: a.at,
		Readings: make([]devices.Reading, len(a.points)),
	}
	if a.err != nil {
		out.Reason, out.Message = reason(a.err), a.err.Error()
	}
	for i := range a.points {
		p := &a.points[i]
		r := &out.Readings[i]
		r.Point, r.Time, r.Quality = p.index, a.at, devices.Good
		if a.err != nil {
			r.Quality, r.Reason = devices.Bad, out.Reason
			continue
		}
		v, err := p.decode(a.data, a.start)
		switch {
		case err != nil:
			r.Quality, r.Reason = devices.Bad, err.Error()
		case s.settings.singleRegisters && p.count > 1 && !p.table.bits():
			r.Quality, r.Reason = devices.Uncertain, "ReadInParts"
		}
		r.Value = v
	}
	return out
}

// Write has a point written before anything is polled on the link.
func (s *session) Write(ctx context.Context, index int, value string) (devices.Outcome, error) {
	return s.write(ctx, index, value, prioWrite, (*unit).write)
}

// Command has a point sent a value before anything else on the link.
func (s *session) Command(ctx context.Context, index int, value string) (devices.Outcome, error) {
	return s.write(ctx, index, value, prioCommand, (*unit).command)
}

// write has a point written by a function of the unit, as one job.
func (s *session) write(ctx context.Context, index int, value string, pr priority,
	do func(*unit, *point, string) (devices.Outcome, devices.Value, error),
) (devices.Outcome, error) {
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
	j := &job{ctx: ctx, priority: pr, due: time.Now(), unit: s.settings.unit, settings: s.settings}
	j.do = func(u *unit) (err error) {
		w.outcome, w.value, err = do(u, p, value)
		w.outcome.Written, w.outcome.Sent = len(u.sent) > 0, u.told()
		w.at = u.at
		return err
	}
	err := l.do(j, true)
	if w.value.Kind() != devices.None { // the twin need not wait for the next poll
		deliver(devices.Batch{Readings: []devices.Reading{s.written(index, w)}, Reachable: true, Time: w.at})
	}
	return w.outcome, err
}

// written is the reading that a write gives. What was broadcast nobody has confirmed.
func (s *session) written(index int, w *wrote) devices.Reading {
	r := devices.Reading{Point: index, Value: w.value, Quality: devices.Good, Time: w.at}
	if s.settings.broadcasts() {
		r.Quality, r.Reason = devices.Uncertain, "Broadcast"
	}
	return r
}

// wrote is what a write brings back. It is read only after the job is done.
type wrote struct {
	outcome devices.Outcome
	value   devices.Value
	at      time.Time
}
