package modbus

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/internal/backoff"
	"github.com/petiole-io/petiole/devices/modbus/link"
)

const (
	// A port that is in use with other settings is retried every conflictWait, and
	// reported after conflictTries attempts.
	conflictWait  = 200 * time.Millisecond
	conflictTries = 3
)

// session is the devices.Session of one device.
type session struct {
	driver   *Driver
	def      devices.Definition
	settings *settings
	points   []point
	log      *zap.Logger

	mu      sync.Mutex
	link    *link.Link
	deliver func(devices.Batch)
}

// Run polls the device's points until ctx ends.
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
	identify := s.settings.identify
	defer cancel() // before unsubscribing: a poller may wait for this device
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-mail.ready:
		}
		for _, a := range mail.drain() {
			if ctx.Err() != nil {
				return nil
			}
			b := s.batch(a)
			deliver(b)
			if identify && b.Reachable {
				identify = false
				s.identify(ctx, l, deliver)
			}
		}
	}
}

// identify delivers the unit's identification, if it has one. The unit responds, so that a
// request to which it does not reply is a function that it does not know, and no fault.
func (s *session) identify(ctx context.Context, l *link.Link, deliver func(devices.Batch)) {
	b := devices.Batch{Reachable: true}
	j := &link.Job{Ctx: ctx, Priority: link.Poll, Due: time.Now(), Unit: s.settings.unit, Settings: &s.settings.Settings}
	j.Do = func(u *link.Unit) (err error) {
		b.Identification, err = link.Identify(u)
		b.Time = u.At
		return err
	}
	if err := l.Do(j, true); err != nil {
		s.log.Info("device has no identification (function 43/14)", zap.Error(err))
		return
	}
	deliver(b)
}

// periods returns the points to poll, by period: none for a broadcast, to which no unit
// replies, and none that can only be written.
func (s *session) periods() map[time.Duration][]*point {
	byPeriod := map[time.Duration][]*point{}
	if s.settings.broadcasts() {
		return byPeriod
	}
	for i := range s.points {
		if p := &s.points[i]; p.verify {
			byPeriod[p.cycle] = append(byPeriod[p.cycle], p)
		}
	}
	return byPeriod
}

// acquire waits for the link. It returns nil when ctx ends first. A serial port may
// still be in use with the settings of the session that this one replaces.
func (s *session) acquire(ctx context.Context, deliver func(devices.Batch)) *link.Link {
	for tries := 1; ctx.Err() == nil; tries++ {
		l, err := s.driver.acquire(s.settings.endpoint) //nolint:contextcheck // the link outlives this session
		if err == nil {
			return l
		}
		if tries >= conflictTries {
			deliver(devices.Batch{Reason: link.Reason(err), Message: err.Error(), Time: time.Now()})
		}
		backoff.Sleep(ctx, conflictWait)
	}
	return nil
}

func (s *session) attach(l *link.Link, deliver func(devices.Batch)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.link, s.deliver = l, deliver
}

// batch converts the result of a request into readings.
func (s *session) batch(a readResult) devices.Batch {
	out := devices.Batch{
		Reachable: !errors.Is(a.err, devices.ErrUnreachable) || errors.Is(a.err, link.ErrBusy), Time: a.at,
		Readings: make([]devices.Reading, len(a.points)),
	}
	if a.err != nil {
		out.Reason, out.Message = link.Reason(a.err), a.err.Error()
	}
	for i := range a.points {
		p := a.points[i]
		r := &out.Readings[i]
		r.Point, r.Time, r.Quality = p.index, a.at, devices.Good
		if a.err != nil {
			r.Quality, r.Reason = devices.Bad, out.Reason
			continue
		}
		v, err := p.Decode(a.data, a.start)
		switch {
		case err != nil:
			r.Quality, r.Reason = devices.Bad, err.Error()
		case s.settings.SingleRegisters && p.Count > 1 && !p.Table.Bits():
			r.Quality, r.Reason = devices.Uncertain, "ReadInParts"
		}
		r.Value = v
	}
	return out
}

// Write writes a desired value to a point, ahead of the polls of the link.
func (s *session) Write(ctx context.Context, index int, value string) (devices.Outcome, error) {
	return s.write(ctx, index, value, link.Write, (*writer).write)
}

// Command sends a value to a point, ahead of everything else on the link.
func (s *session) Command(ctx context.Context, index int, value string) (devices.Outcome, error) {
	return s.write(ctx, index, value, link.Command, (*writer).command)
}

// write runs a write or command as one job of the link and waits for its end.
func (s *session) write(ctx context.Context, index int, value string, pr link.Priority,
	do func(*writer, string) (devices.Outcome, devices.Value, error),
) (devices.Outcome, error) {
	s.mu.Lock()
	l, deliver := s.link, s.deliver
	s.mu.Unlock()
	if l == nil {
		return devices.Outcome{}, link.ErrStopped
	}
	var p *point
	for i := range s.points {
		if s.points[i].index == index {
			p = &s.points[i]
		}
	}
	if p == nil {
		return devices.Outcome{}, &devices.Rejection{Reason: devices.ReasonNotValid, Message: "the property has no valid settings"}
	}
	w := new(writeResult)
	j := &link.Job{Ctx: ctx, Priority: pr, Due: time.Now(), Unit: s.settings.unit, Settings: &s.settings.Settings}
	j.Do = func(u *link.Unit) (err error) {
		w.outcome, w.value, err = do(&writer{Unit: u, settings: s.settings, point: p}, value)
		w.outcome.Written, w.outcome.Sent = len(u.Sent) > 0, u.SentText()
		w.at = u.At
		return err
	}
	err := l.Do(j, true)
	if w.value.Kind() != devices.None { // update the twin without waiting for the next poll
		deliver(devices.Batch{Readings: []devices.Reading{s.written(index, w)}, Reachable: true, Time: w.at})
	} else if w.outcome.Written {
		s.reportWrite(err, deliver)
	}
	return w.outcome, err
}

// reportWrite reports whether the unit responded to a write, if only writes show that.
func (s *session) reportWrite(err error, deliver func(devices.Batch)) {
	if s.settings.broadcasts() || len(s.periods()) > 0 {
		return
	}
	b := devices.Batch{Reachable: !errors.Is(err, devices.ErrUnreachable), Time: time.Now()}
	if !b.Reachable {
		b.Reason, b.Message = link.Reason(err), err.Error()
	}
	deliver(b)
}

// written returns the reading that follows from a write. A broadcast is not confirmed.
func (s *session) written(index int, w *writeResult) devices.Reading {
	r := devices.Reading{Point: index, Value: w.value, Quality: devices.Good, Time: w.at}
	if s.settings.broadcasts() {
		r.Quality, r.Reason = devices.Uncertain, "Broadcast"
	}
	return r
}

// writeResult is the result of a write job. It may be read only after the job is done.
type writeResult struct {
	outcome devices.Outcome
	value   devices.Value
	at      time.Time
}
