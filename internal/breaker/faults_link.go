package breaker

import (
	"context"
	"errors"
	"time"

	"github.com/petiole-io/petiole/internal/breaker/world"
)

type linkOf = world.Link

// linkFault is a fault of a site's link; cuts says that nothing of the site can arrive
// at the hub meanwhile.
func linkFault(do func(*linkOf) error, cuts bool) func(context.Context, *run, action) (func(context.Context) error, error) {
	return func(_ context.Context, r *run, a action) (func(context.Context) error, error) {
		l := r.world.Sites[a.target].Link
		if cuts {
			r.reach(a.target, false)
		}
		return func(context.Context) error {
			if cuts {
				defer r.reach(a.target, true)
			}
			return l.Heal()
		}, do(l)
	}
}

func slow64(l *linkOf) error { return l.Slow("64kbit") }
func lose20(l *linkOf) error { return l.Lose(20) }

// flapPeriod is how long a flapping link is down, and up.
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
