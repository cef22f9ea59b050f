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
	"github.com/petiole-io/petiole/devices/dmi/convert"
	"github.com/petiole-io/petiole/devices/dmi/reports"
)

// Write sends a desired value to the mapper and waits until the mapper reports it. While it
// is desired it is part of the device, so that a mapper gets it with the device when it
// restarts. A value that was sent before and is reported now is not sent again. A value that
// is no longer desired is sent once.
func (x *session) Write(ctx context.Context, point int, value string) (devices.Outcome, error) {
	return x.writeDesired(ctx, time.Time{}, point, value)
}

// WriteBefore implements devices.LateConfirmer. A mapper reports a property once in a
// collectCycle, which may be longer than any fixed limit of a write.
func (x *session) WriteBefore(ctx context.Context, begin time.Time, point int, value string, always bool) (devices.Outcome, error) {
	if always {
		return x.command(ctx, begin, point, value)
	}
	return x.writeDesired(ctx, begin, point, value)
}

func (x *session) writeDesired(ctx context.Context, begin time.Time, point int, value string) (devices.Outcome, error) {
	if err := x.ready(ctx, point, value); err != nil {
		return devices.Outcome{}, err
	}
	p := x.points[point]
	last, fresh, o := x.before(point)
	want := desired(x.delivery.definition(), p.Name)
	now := convert.SentValue{Value: value, Time: time.Now().UnixMilli()}
	if want == nil {
		return x.write(ctx, begin, point, value, once(p, now), o)
	}
	r, _ := x.server.store.device(x.device.String())
	was, known := r.Sent[p.Name]
	repeated := known && was.Value == value
	if repeated && fresh && convert.Same(p.Type, last.Reading.Value, value) {
		o.After, o.Written = o.Before, !was.Confirmed
		x.markConfirmed(p.Name)
		return o, nil
	}
	o, err := x.write(ctx, begin, point, value, valueDelivery{keep: devices.ExpiresAt(want.Metadata).IsZero(), record: func() error {
		// A value that the mapper has just got with the device is only awaited.
		if repeated && !was.Confirmed && x.delivery.heldFor() <= x.reportTimeout(p) {
			return nil
		}
		return x.server.store.save(x.device.String(), func(r *record) { r.setSent(p.Name, now) })
	}, undo: func() {
		x.server.store.update(x.device.String(), func(r *record) {
			delete(r.Sent, p.Name)
			if known && !repeated {
				r.setSent(p.Name, was)
			}
		})
	}}, o)
	var rejection *devices.Rejection
	switch {
	case err == nil:
		x.markConfirmed(p.Name)
	case o.Written && errors.As(err, &rejection):
		x.withdrawRejected(p.Name, value, rejection.Reason)
	}
	return o, err
}

// withdrawRejected removes a value from the device that the mapper got and the device never
// showed, so that no later delivery repeats it. A property that the mapper does not report is
// delivered without the value at once: KubeEdge's mappers stop reading one whose value they
// could not write.
func (x *session) withdrawRejected(property, value, reason string) {
	x.server.store.update(x.device.String(), func(r *record) {
		if r.Sent[property].Value == value {
			delete(r.Sent, property)
		}
	})
	if reason == devices.ReasonUnverified {
		signal(x.delivery.changed)
	}
}

// Command sends a value to the mapper once, whatever is reported or desired, and waits until
// the mapper reports it. If the mapper accepts the value and reports zero, it is unknown
// whether the device acted on it.
func (x *session) Command(ctx context.Context, point int, value string) (devices.Outcome, error) {
	return x.command(ctx, time.Time{}, point, value)
}

func (x *session) command(ctx context.Context, begin time.Time, point int, value string) (devices.Outcome, error) {
	if err := x.ready(ctx, point, value); err != nil {
		return devices.Outcome{}, err
	}
	p := x.points[point]
	_, _, o := x.before(point)
	now := convert.SentValue{Value: value, Time: time.Now().UnixMilli(), Command: true}
	o, err := x.write(ctx, begin, point, value, once(p, now), o)
	var rejection *devices.Rejection
	if errors.As(err, &rejection) && rejection.Reason == devices.ReasonReadBack && zero(o.After) && !zero(value) {
		err = fmt.Errorf("%w: the mapper accepted the value and reports %s: it is not known whether the device acted on it", devices.ErrUnreachable, o.After)
	}
	return o, err
}

// ready waits until the session is the current one of its device. It returns an error if a
// mapper could not parse the value.
func (x *session) ready(ctx context.Context, point int, value string) error {
	if point < 0 || point >= len(x.points) {
		return fmt.Errorf("write %s: no point %d", x.device, point)
	}
	if _, err := convert.FormatValue(x.points[point].Type, value); err != nil {
		return &devices.Rejection{Reason: devices.ReasonNotValid, Message: err.Error()}
	}
	select {
	case <-x.attached:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", devices.ErrUnreachable, ctx.Err())
	}
}

// before returns the last report of a point, whether it is recent enough to be its present
// value, and an outcome with that value as Before.
func (x *session) before(point int) (last reports.Last, fresh bool, o devices.Outcome) {
	last, fresh = x.reports.Last(point)
	if fresh {
		o.Before = last.Reading.Value.String()
	}
	return last, fresh, o
}

// zero reports whether a value in string form is false, or the number zero.
func zero(value string) bool {
	f, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
	b, ok := devices.ParseBool(value)
	return err == nil && f == 0 || ok && !b
}

// once returns the delivery of a value that does not become part of the device.
func once(p devices.Point, value convert.SentValue) valueDelivery {
	return valueDelivery{once: map[string]convert.SentValue{p.Name: value}, record: func() error { return nil }, undo: func() {}}
}

// valueDelivery describes how to send a value to the mapper.
type valueDelivery struct {
	// once has values that are sent once and do not become part of the device.
	once map[string]convert.SentValue
	// keep makes a value that could not be sent part of the device, so that it is sent with
	// the next delivery.
	keep bool
	// record makes the value part of the device.
	record func() error
	// undo reverts record.
	undo func()
}

// write sends a value to the mapper before begin, if that is not zero, and waits until the
// mapper reports it. A refused value is removed from the device again.
func (x *session) write(ctx context.Context, begin time.Time, point int, value string, a valueDelivery, o devices.Outcome) (devices.Outcome, error) {
	last, release := x.reports.Watch(point)
	defer release()
	sending, cancel := ctx, context.CancelFunc(func() {})
	if !begin.IsZero() {
		sending, cancel = context.WithDeadline(ctx, begin)
	}
	sent, err := x.sendValue(sending, a, x.points[point].Name, value)
	cancel()
	if o.Written = sent; sent {
		how := "UpdateDevice"
		if remoteOf(x.delivery) != nil {
			how = "twin/update/delta"
		}
		o.Sent = fmt.Sprintf("%s %s: %s = %s", how, x.device, x.points[point].Name, value)
	}
	if err != nil {
		return o, err
	}
	return x.awaitReport(ctx, x.points[point], value, o, last)
}

// sendValue delivers the device with the value, and reports whether the mapper may have got
// it. It holds the lock until a refused value is removed again, so that no other delivery
// contains it.
func (x *session) sendValue(ctx context.Context, a valueDelivery, property, value string) (sent bool, err error) {
	end, err := x.delivery.lock(ctx)
	if err != nil {
		return false, fmt.Errorf("%w: %w", devices.ErrUnreachable, err)
	}
	defer end()
	if err := ctx.Err(); err != nil {
		return false, fmt.Errorf("%w: %w", devices.ErrUnreachable, err)
	}
	if err := a.record(); err != nil {
		return false, fmt.Errorf("%w: %w", devices.ErrUnreachable, err)
	}
	if reason, message := x.delivery.unreachableReason(); reason != "" {
		if !a.keep {
			a.undo()
		}
		return false, fmt.Errorf("%w: %s", devices.ErrUnreachable, message)
	}
	if m := remoteOf(x.delivery); m != nil {
		m.announce(x.device, property, value)
		return true, nil
	}
	err = x.delivery.deliverLocked(ctx, a.once)
	if isRefusal(err) { // it may have lost device or model: send both again
		err = x.delivery.deliverLocked(ctx, a.once)
	}
	switch {
	case err == nil:
		return true, nil
	case notSent(err) || errors.Is(err, errStore):
		if !a.keep {
			a.undo()
		}
		signal(x.delivery.changed)
		return false, fmt.Errorf("%w: %w", devices.ErrUnreachable, err)
	case unreachable(err): // it is unknown whether the mapper got it
		signal(x.delivery.changed)
		return true, fmt.Errorf("%w: %s", devices.ErrUnreachable, status.Convert(err).Message())
	}
	// Find out whether the mapper refuses the value or the device.
	a.undo()
	without := x.delivery.deliverLocked(ctx, nil)
	x.delivery.setRefusal(without)
	if without != nil {
		signal(x.delivery.changed)
		return false, fmt.Errorf("%w: %s", devices.ErrUnreachable, status.Convert(without).Message())
	}
	return false, &devices.Rejection{Reason: devices.ReasonRefused, Message: status.Convert(err).Message()}
}

// setSent records a value to send. What the mapper has is unknown from then on.
func (r *record) setSent(property string, t convert.SentValue) {
	if r.Sent == nil {
		r.Sent = map[string]convert.SentValue{}
	}
	r.Sent[property] = t
	if r.Has != hasNothing {
		r.Has = hasUnknown
	}
}

// markConfirmed records that the mapper has reported the value that was sent.
func (x *session) markConfirmed(property string) {
	x.server.store.update(x.device.String(), func(r *record) {
		if t, ok := r.Sent[property]; ok {
			t.Confirmed = true
			r.Sent[property] = t
		}
	})
}

// reportTimeout returns how long a mapper may take to report a value after it was sent.
func (x *session) reportTimeout(p devices.Point) time.Duration {
	return max(x.server.timing.applied, 3*p.Cycle)
}

// awaitReport waits until a report shows the value.
func (x *session) awaitReport(ctx context.Context, p devices.Point, value string, o devices.Outcome, last <-chan reports.Last) (devices.Outcome, error) {
	timeout := time.NewTimer(x.reportTimeout(p))
	defer timeout.Stop()
	reported := false
	for {
		select {
		case <-ctx.Done():
			return o, fmt.Errorf("%w: %w", devices.ErrUnreachable, ctx.Err())
		case <-timeout.C:
			switch reason, message := x.delivery.unreachableReason(); {
			case reported:
			case reason != "":
				return o, fmt.Errorf("%w: %s", devices.ErrUnreachable, message)
			case !x.reports.Reachable():
				return o, fmt.Errorf("%w: the mapper does not report %s", devices.ErrUnreachable, p.Name)
			default:
				return o, &devices.Rejection{Reason: devices.ReasonUnverified, Message: "the mapper accepted the value and does not report the property"}
			}
			return o, &devices.Rejection{Reason: devices.ReasonReadBack, Message: "the mapper reports " + o.After}
		case s := <-last:
			switch {
			case s.Reading.Quality == "": // the mapper reports only that it has the desired value
				if has, _ := convert.ParseValue(p.Type, s.Observed); convert.Same(p.Type, has, value) {
					return o, nil
				}
			case s.Reading.Quality == devices.Good:
				reported = true
				o.After = s.Reading.Value.String()
				if convert.Same(p.Type, s.Reading.Value, value) {
					return o, nil
				}
			}
		}
	}
}
