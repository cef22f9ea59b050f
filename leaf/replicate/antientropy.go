package replicate

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/leaf/desired"
	"github.com/petiole-io/petiole/streams/inventory"
)

const (
	// MaxComparisons bounds the comparisons of one check. Each takes three queries at most.
	MaxComparisons = 8
	// stuckComparisons is how many times in a row the bridge must answer behind, while nothing
	// arrives, before a new session starts.
	stuckComparisons = 3
)

// errBehind ends a session whose site lacks messages that were never sent to it, according to
// the bridge. The next session compares the positions.
var errBehind = errors.New("the bridge reports more deliveries than have arrived")

// Pace holds the delays of the comparisons of inventories. Zero values select the defaults.
type Pace struct {
	// Interval is the time between two checks while nothing is wrong; default
	// inventory.Interval. Each wait has 20 % of jitter.
	Interval time.Duration
	// Retry is the delay before a failed check is repeated, doubled each time up to Interval;
	// default 15 s.
	Retry time.Duration
	// Repeat is the longest delay before the next comparison of a check, doubled each time up to
	// 15 s; default 1 s.
	Repeat time.Duration
}

func (p Pace) orDefault() Pace {
	if p.Interval == 0 {
		p.Interval = inventory.Interval
	}
	if p.Retry == 0 {
		p.Retry = 15 * time.Second
	}
	if p.Repeat == 0 {
		p.Repeat = time.Second
	}
	return p
}

// antiEntropy compares the inventory of this site with the bridge's during one session: when the
// site has caught up after the start of the session, when the bridge asks for it, and
// periodically. It runs beside the deliveries.
type antiEntropy struct {
	r *Replicator
	// identity is the identity of the hub's stream.
	identity string
	pace     Pace
	caughtUp signal
	// due is signalled to request a check.
	due chan struct{}
	// position is the position in the last query; stuck counts the consecutive answers behind to
	// it.
	position uint64
	stuck    int
}

func newAntiEntropy(r *Replicator, identity string) *antiEntropy {
	ae := &antiEntropy{r: r, identity: identity, pace: r.cfg.Pace.orDefault(), due: make(chan struct{}, 1), caughtUp: signal{changed: make(chan struct{})}}
	ae.request()
	return ae
}

// observe takes note of a batch that has been stored.
func (ae *antiEntropy) observe(a batch) {
	if len(a.deliveries) > 0 || a.caughtUp {
		ae.caughtUp.set(a.caughtUp)
	}
	if a.verifyRequested {
		ae.request()
	}
}

func (ae *antiEntropy) request() {
	select {
	case ae.due <- struct{}{}:
	default:
	}
}

// run checks until ctx ends. It returns errBehind if a new session has to start.
func (ae *antiEntropy) run(ctx context.Context) error {
	retry := ae.pace.Retry
	timer := time.NewTimer(ae.pace.Interval)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ae.due:
		case <-timer.C:
		}
		outcome, err := ae.check(ctx)
		if ctx.Err() != nil {
			return nil
		}
		next := ae.pace.Interval
		if !errors.Is(err, desired.ErrUnreadable) {
			ae.r.cfg.Desired.MarkComplete(ctx)
		}
		if err != nil {
			if errors.Is(err, desired.ErrUnreadable) {
				ae.r.cfg.Desired.ReportUnreadable()
			}
			ae.r.cfg.Log.Info("inventory not compared", zap.Error(err))
			ae.r.cfg.Counters.checks.WithLabelValues("failed").Inc()
		}
		if err == nil && outcome == inventory.Equal {
			retry = ae.pace.Retry
		} else {
			next = retry
			retry = min(2*retry, ae.pace.Interval)
		}
		if ae.stuck >= stuckComparisons && ae.r.mayRestart(ae.pace.Interval) {
			return errBehind
		}
		timer.Reset(next - next/5 + rand.N(next*2/5+1))
	}
}

// check compares until the inventories are equal, or until more comparisons would not help, and
// returns the last outcome.
func (ae *antiEntropy) check(ctx context.Context) (outcome inventory.State, err error) {
	again := ae.pace.Repeat
	if err := ae.caughtUp.await(ctx); err != nil {
		return "", err
	}
	ae.stuck = 0
	for range MaxComparisons {
		before := ae.position
		if outcome, err = ae.compare(ctx); err != nil {
			return "", err
		}
		if ae.stuck++; outcome != inventory.Behind || ae.position != before {
			ae.stuck = 0
		}
		ae.r.cfg.Counters.checks.WithLabelValues(string(outcome)).Inc()
		if outcome == inventory.Equal {
			ae.stuck = 0
			return outcome, nil
		}
		ae.r.cfg.Log.Info("inventory differs", zap.String("outcome", string(outcome)))
		if ae.stuck >= stuckComparisons {
			return outcome, nil
		}
		// What is missing is on its way: until it is here, or a while.
		if err := ae.caughtUp.next(ctx, again); err != nil {
			return "", err
		}
		again = min(2*again, 15*time.Second)
	}
	return outcome, nil
}

// compare compares once. A query takes no more than the line carries in a while, so that the pings
// are answered meanwhile.
func (ae *antiEntropy) compare(ctx context.Context) (inventory.State, error) {
	most := ae.r.cfg.MaxPayload() - queryRoom
	return inventory.Compare(ctx, ae, min(most, ae.r.queries.Bytes()), most)
}

// mayRestart reports whether a session may end because the bridge answers behind: once in an
// interval, since a bridge that is not ready answers so as well.
func (r *Replicator) mayRestart(interval time.Duration) bool {
	if time.Since(r.restarted) < interval {
		return false
	}
	r.restarted = time.Now()
	return true
}

// signal holds whether the site has caught up with the hub, as far as is known.
type signal struct {
	mu      sync.Mutex
	on      bool
	changed chan struct{}
}

func (sg *signal) set(up bool) {
	sg.mu.Lock()
	defer sg.mu.Unlock()
	if sg.on = up; up {
		close(sg.changed)
		sg.changed = make(chan struct{})
	}
}

// await returns when the site has caught up.
func (sg *signal) await(ctx context.Context) error {
	for {
		sg.mu.Lock()
		up, changed := sg.on, sg.changed
		sg.mu.Unlock()
		if up {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// next returns when the site catches up the next time, or after patience.
func (sg *signal) next(ctx context.Context, patience time.Duration) error {
	sg.mu.Lock()
	changed := sg.changed
	sg.mu.Unlock()
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-changed:
	case <-late.C:
	}
	return nil
}
