package dmi

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/status"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// Write tells the mapper a desired value and waits until it reports it. While it is
// desired it stays with the device: a mapper that starts again gets it with the device.
// One that the mapper was told before, and reports now, is not told again. One that is
// no longer desired is told once.
func (x *session) Write(ctx context.Context, point int, value string) (devices.Outcome, error) {
	if err := x.ready(ctx, point); err != nil {
		return devices.Outcome{}, err
	}
	p := x.points[point]
	last, fresh, o := x.before(point)
	x.mu.Lock()
	wish := desired(x.def, p.Name)
	x.mu.Unlock()
	now := told{Value: value, Time: time.Now().UnixMilli()}
	if wish == nil {
		return x.write(ctx, point, value, once(p, now), o)
	}
	r, _ := x.server.store.device(x.device.String())
	was, known := r.Told[p.Name]
	repeated := known && was.Value == value
	if repeated && fresh && same(p.Type, last.reading.Value, value) {
		o.After, o.Written = o.Before, !was.Confirmed
		x.confirmed(p.Name)
		return o, nil
	}
	o, err := x.write(ctx, point, value, attempt{keep: !expires(wish), record: func() error {
		// A value that the mapper got with the device a moment ago only needs to be awaited.
		if repeated && !was.Confirmed && x.heldFor() <= x.appliedBy(p) {
			return nil
		}
		return x.server.store.save(x.device.String(), func(r *record) { r.tell(p.Name, now) })
	}, takeBack: func() {
		x.server.store.note(x.device.String(), func(r *record) {
			delete(r.Told, p.Name)
			if known && !repeated {
				r.tell(p.Name, was)
			}
		})
	}}, o)
	if err == nil {
		x.confirmed(p.Name)
	}
	return o, err
}

// Command tells the mapper a value once, whatever it reports and whatever is desired of
// the property, and waits until it reports it. A mapper that took the value and reports
// zero may have acted on it, or not: nobody knows.
func (x *session) Command(ctx context.Context, point int, value string) (devices.Outcome, error) {
	if err := x.ready(ctx, point); err != nil {
		return devices.Outcome{}, err
	}
	p := x.points[point]
	_, _, o := x.before(point)
	now := told{Value: value, Time: time.Now().UnixMilli(), Command: true}
	o, err := x.write(ctx, point, value, once(p, now), o)
	var no *devices.Rejection
	if errors.As(err, &no) && no.Reason == devices.ReasonReadBack && zero(o.After) && !zero(value) {
		err = fmt.Errorf("%w: the mapper took the value and reports %s: whether the device acted on it is not known", devices.ErrUnreachable, o.After)
	}
	return o, err
}

// ready waits until the session is the one of its device.
func (x *session) ready(ctx context.Context, point int) error {
	if point < 0 || point >= len(x.points) {
		return fmt.Errorf("write %s: no point %d", x.device, point)
	}
	select {
	case <-x.joined:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", devices.ErrUnreachable, ctx.Err())
	}
}

// before is the last that was reported of a point, whether it tells how the point is now,
// and an outcome that begins with it.
func (x *session) before(point int) (last sighting, fresh bool, o devices.Outcome) {
	last, fresh = x.last(point)
	if fresh {
		o.Before = last.reading.Value.String()
	}
	return last, fresh, o
}

// zero reports whether a value in string form is false, or the number zero.
func zero(value string) bool {
	f, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
	b, ok := devices.ParseBool(value)
	return err == nil && f == 0 || ok && !b
}

// once is how a value is told that does not stay with the device.
func once(p devices.Point, value told) attempt {
	return attempt{once: map[string]told{p.Name: value}, record: func() error { return nil }, takeBack: func() {}}
}

// expires tells a desired value that must not be told late.
func expires(wish *v1beta1.TwinProperty) bool {
	for k := range wish.Metadata {
		if strings.EqualFold(k, devices.MetaExpiresAt) {
			return true
		}
	}
	return false
}

// attempt is how a value is told.
type attempt struct {
	// once are values that are told once and do not stay with the device.
	once map[string]told
	// keep has a value that could not be told yet told with the device, as soon as it is
	// brought to its mapper.
	keep bool
	// record makes the device have the value.
	record func() error
	// takeBack makes the device what it was without the value.
	takeBack func()
}

// write tells the mapper a value and waits until it reports it. A value that the mapper
// does not take is taken back.
func (x *session) write(ctx context.Context, point int, value string, a attempt, o devices.Outcome) (devices.Outcome, error) {
	sightings, release := x.watch(point)
	defer release()
	told, err := x.tellMapper(ctx, a)
	if o.Written = told; told {
		o.Sent = fmt.Sprintf("UpdateDevice %s: %s = %s", x.device, x.points[point].Name, value)
	}
	if err != nil {
		return o, err
	}
	return x.confirm(ctx, x.points[point], value, o, sightings)
}

// tellMapper brings the device with the value to its mapper, and tells whether that may
// have got it. It keeps the turn until the mapper's verdict has been followed: nobody else
// brings the device with a value that may be refused.
func (x *session) tellMapper(ctx context.Context, a attempt) (told bool, err error) {
	end, err := x.turn(ctx)
	if err != nil {
		return false, fmt.Errorf("%w: %w", devices.ErrUnreachable, err)
	}
	defer end()
	if err := a.record(); err != nil {
		return false, fmt.Errorf("%w: %w", devices.ErrUnreachable, err)
	}
	if reason, message := x.trouble(); reason != "" {
		if !a.keep {
			a.takeBack()
		}
		return false, fmt.Errorf("%w: %s", devices.ErrUnreachable, message)
	}
	err = x.bringInTurn(ctx, a.once)
	if refuses(err) { // it may have lost device or model: it gets both again
		err = x.bringInTurn(ctx, a.once)
	}
	switch {
	case err == nil:
		return true, nil
	case unsent(err) || errors.Is(err, errStore):
		if !a.keep {
			a.takeBack()
		}
		poke(x.news)
		return false, fmt.Errorf("%w: %w", devices.ErrUnreachable, err)
	case unreachable(err): // whether it was told is not known
		poke(x.news)
		return true, fmt.Errorf("%w: %s", devices.ErrUnreachable, status.Convert(err).Message())
	}
	// Is it the value, or does the mapper not take the device at all?
	a.takeBack()
	without := x.bringInTurn(ctx, nil)
	x.refused(without)
	if without != nil {
		poke(x.news)
		return false, fmt.Errorf("%w: %s", devices.ErrUnreachable, status.Convert(without).Message())
	}
	return false, &devices.Rejection{Reason: devices.ReasonRefused, Message: status.Convert(err).Message()}
}

// tell records a value that the mapper shall have. What it has is unknown then.
func (r *record) tell(property string, t told) {
	if r.Told == nil {
		r.Told = map[string]told{}
	}
	r.Told[property] = t
	if r.Has != hasNothing {
		r.Has = hasUnknown
	}
}

// confirmed records that the mapper has reported what it was told.
func (x *session) confirmed(property string) {
	x.server.store.note(x.device.String(), func(r *record) {
		if t, ok := r.Told[property]; ok {
			t.Confirmed = true
			r.Told[property] = t
		}
	})
}

// last is the last sighting of a point, and whether it tells how the point is now.
func (x *session) last(point int) (s sighting, fresh bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	s = x.seen[point]
	return s, s.reading.Quality == devices.Good && time.Since(s.at) < 2*x.points[point].Cycle+time.Second
}

// appliedBy is how long a mapper may take to report a value that it was told.
func (x *session) appliedBy(p devices.Point) time.Duration {
	return max(x.server.timing.applied, 3*p.Cycle)
}

// confirm waits until a report shows the value.
func (x *session) confirm(ctx context.Context, p devices.Point, value string, o devices.Outcome, sightings <-chan sighting) (devices.Outcome, error) {
	timeout := time.NewTimer(x.appliedBy(p))
	defer timeout.Stop()
	reported := false
	for {
		select {
		case <-ctx.Done():
			return o, fmt.Errorf("%w: %w", devices.ErrUnreachable, ctx.Err())
		case <-timeout.C:
			if !reported {
				return o, fmt.Errorf("%w: the mapper reports nothing of %s", devices.ErrUnreachable, p.Name)
			}
			return o, &devices.Rejection{Reason: devices.ReasonReadBack, Message: "the mapper reports " + o.After}
		case s := <-sightings:
			switch {
			case s.reading.Quality == "": // the mapper reports only that it has the value
				if has, _ := parseValue(p.Type, s.observed); same(p.Type, has, value) {
					return o, nil
				}
			case s.reading.Quality == devices.Good:
				reported = true
				o.After = s.reading.Value.String()
				if same(p.Type, s.reading.Value, value) {
					return o, nil
				}
			}
		}
	}
}
