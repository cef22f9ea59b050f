package breaker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/internal/breaker/check"
	"github.com/petiole-io/petiole/internal/breaker/world"
	"github.com/petiole-io/petiole/streams"
)

type linkOf = world.Link

// linkFault returns a fault of a site's link; with cuts, nothing of the site can arrive
// at the hub meanwhile.
func linkFault(do func(*linkOf) error, cuts bool) func(context.Context, *run, action) (func(context.Context) error, error) {
	return func(_ context.Context, r *run, a action) (func(context.Context) error, error) {
		l := r.world.Sites[a.target].Link
		if cuts {
			r.countCut(a.target, false)
		}
		return func(context.Context) error {
			if cuts {
				defer r.countCut(a.target, true)
			}
			return l.Heal()
		}, do(l)
	}
}

func slow64(l *linkOf) error { return l.Slow("64kbit") }
func lose20(l *linkOf) error { return l.Lose(20) }

// flapPeriod is the time that a flapping link is down, and up.
const flapPeriod = time.Second

// flap takes the link down and up again until the fault is over.
func flap(_ context.Context, r *run, a action) (func(context.Context) error, error) {
	l := r.world.Sites[a.target].Link
	done, stop := make(chan error, 1), make(chan struct{})
	go func() {
		down, errs := a.dice%2 == 0, []error(nil)
		for {
			if down {
				errs = append(errs, l.Down())
			} else {
				errs = append(errs, l.Silent())
			}
			for _, phase := range []func() error{l.Heal, func() error { return nil }} {
				select {
				case <-stop:
					done <- errors.Join(errs...)
					return
				case <-time.After(flapPeriod):
				}
				errs = append(errs, phase())
			}
		}
	}()
	return func(context.Context) error {
		close(stop)
		return errors.Join(<-done, l.Heal())
	}, nil
}

// backlogRates are the rates of slow lines, from a radio modem's to a DSL line's.
var backlogRates = []string{"9600bit", "64kbit", "128kbit", "256kbit", "512kbit"}

// backlogFill is the size of each ConfigMap of a backlog. All of them take a line of
// 64 kbit/s longer than the leaf's pings wait.
const backlogFill = 20000

// A line must have brought something of a backlog after backlogBytes, which are two connections and
// twice the largest message with what is sent beside them, and then some; and after backlogStall,
// however little it has carried. Less time than that shows nothing: on a busy machine a slow line
// is not full.
const (
	backlogBytes = 64 << 10
	backlogStall = 3 * time.Minute
)

// reconnectSlow ends the connection, gives the site a backlog, and brings the link up at a low
// rate. It records whether any of the backlog got through: that a site converges once the line is
// fast again would not show it. The line stays slow until something did or must have.
func reconnectSlow(ctx context.Context, r *run, a action) (func(context.Context) error, error) {
	site := r.world.Sites[a.target]
	rate := backlogRates[a.dice%uint64(len(backlogRates))]
	r.countCut(a.target, false)
	err := site.Link.Reset()
	if err == nil {
		err = r.createBacklog(ctx, a.target)
	}
	if err == nil {
		err = site.Link.Slow(rate)
	}
	err = errors.Join(err, site.Link.Unblock())
	r.countCut(a.target, true)
	if err != nil {
		return func(context.Context) error { return site.Link.Heal() }, err
	}
	begun := time.Now()
	before, err := r.consumer(ctx, site.Name)
	if err != nil {
		return func(context.Context) error { return site.Link.Heal() }, err
	}
	return func(ctx context.Context) (err error) {
		defer func() { err = errors.Join(err, site.Link.Heal()) }()
		waiting := before.NumPending + uint64(before.NumAckPending)
		if waiting == 0 {
			return nil
		}
		after, carried, err := r.awaitBacklog(ctx, site, before.AckFloor.Stream, begun.Add(backlogStall))
		if err != nil {
			return err
		}
		r.record.add(check.Event{
			Kind: check.Carried, Site: site.Name, What: rate, From: before.AckFloor.Stream, To: after, N: int64(waiting), Bytes: carried, Took: time.Since(begun),
		})
		return nil
	}, nil
}

// awaitBacklog waits until the site has acknowledged something behind a sequence, or must have. It
// returns the sequence up to which it has acknowledged, and what its line has carried to it.
func (r *run) awaitBacklog(ctx context.Context, site *world.Site, behind uint64, stalled time.Time) (acked uint64, carried int64, err error) {
	for {
		info, err := r.consumer(ctx, site.Name)
		if err != nil {
			return 0, 0, err
		}
		if carried, err = site.Link.Carried(); err != nil {
			return 0, 0, err
		}
		acked = info.AckFloor.Stream
		if acked > behind || carried >= backlogBytes || time.Now().After(stalled) || !sleep(ctx, 500*time.Millisecond) {
			return acked, carried, nil
		}
	}
}

// createBacklog changes the anchored ConfigMaps of a site to large ones that no compression makes
// small, and waits until the bridge has published them.
func (r *run) createBacklog(ctx context.Context, site int) error {
	name := r.world.Sites[site].Name
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	r.work.pausable.do(ctx, func(ctx context.Context) {
		for i := range anchoredMaps {
			r.writers[site].putMap(ctx, anchoredMap(i), noise(backlogFill))
		}
	})
	return r.await(ctx, "backlog of "+name, func(ctx context.Context) error {
		c, err := r.consumer(ctx, name)
		if err == nil && c.NumPending+uint64(c.NumAckPending) < anchoredMaps {
			err = fmt.Errorf("%d messages are pending", c.NumPending+uint64(c.NumAckPending))
		}
		return err
	})
}

// consumer reads the hub's consumer of a site.
func (r *run) consumer(ctx context.Context, site string) (info *jetstream.ConsumerInfo, err error) {
	err = r.hubCall(ctx, func(ctx context.Context) error {
		c, err := r.hub.js.Consumer(ctx, streams.Desired, site)
		if err == nil {
			info = c.CachedInfo()
		}
		return err
	})
	return info, err
}
