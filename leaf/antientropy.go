package leaf

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/streams"
)

const (
	// maxComparisons bounds one check: so many comparisons, each of three queries at most.
	maxComparisons = 8
	// stuckComparisons is how often in a row the bridge has to say behind while nothing
	// comes, before the session begins anew.
	stuckComparisons = 3
)

// errBehind ends a session whose site is said to lack what it was never sent: the next
// session compares the positions.
var errBehind = errors.New("the bridge says that more was delivered than has come")

// checkPace is how long a checker waits. Zero values are the defaults that are named.
type checkPace struct {
	// interval is between two checks while nothing is wrong; default
	// streams.InventoryInterval. Each wait gets 20 % of jitter.
	interval time.Duration
	// retry is after how long a check that failed is made again, doubled up to interval
	// each time; default 15 s.
	retry time.Duration
	// again is after how long the comparison within a check is made again at the
	// latest, doubled up to 15 s each time; default 1 s.
	repeat time.Duration
}

func (p checkPace) orDefault() checkPace {
	if p.interval == 0 {
		p.interval = streams.InventoryInterval
	}
	if p.retry == 0 {
		p.retry = 15 * time.Second
	}
	if p.repeat == 0 {
		p.repeat = time.Second
	}
	return p
}

// checker has the manifest of one session compared: when the site has caught up after
// the session began, when the bridge asks for it, and every now and then. It does so beside
// the deliveries.
type antiEntropy struct {
	r *replicator
	// identity is the hub's stream.
	identity string
	pace     checkPace
	caughtUp signal
	// due says that a check is wanted now.
	due chan struct{}
	// position is that of the last query, stuck how often in a row the bridge said
	// behind to it.
	position uint64
	stuck    int
}

func newAntiEntropy(r *replicator, identity string) *antiEntropy {
	c := &antiEntropy{r: r, identity: identity, pace: r.pace.orDefault(), due: make(chan struct{}, 1), caughtUp: signal{changed: make(chan struct{})}}
	c.request()
	return c
}

// note takes over what has arrived and been stored.
func (c *antiEntropy) observe(a batch) {
	if len(a.deliveries) > 0 || a.caughtUp {
		c.caughtUp.set(a.caughtUp)
	}
	if a.verifyRequested {
		c.request()
	}
}

func (c *antiEntropy) request() {
	select {
	case c.due <- struct{}{}:
	default:
	}
}

// run checks until ctx ends. errBehind: the session has to begin anew.
func (c *antiEntropy) run(ctx context.Context) error {
	retry := c.pace.retry
	timer := time.NewTimer(c.pace.interval)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.due:
		case <-timer.C:
		}
		outcome, err := c.check(ctx)
		if ctx.Err() != nil {
			return nil
		}
		next := c.pace.interval
		if !errors.Is(err, errUnreadable) {
			c.r.onCaughtUp(ctx)
		}
		if err != nil {
			if errors.Is(err, errUnreadable) {
				c.r.onUnreadable()
			}
			c.r.log.Info("manifest not compared", zap.Error(err))
			c.r.counts.checks.WithLabelValues("failed").Inc()
		}
		if err == nil && outcome == streams.InventoryEqual {
			retry = c.pace.retry
		} else {
			next = retry
			retry = min(2*retry, c.pace.interval)
		}
		if c.stuck >= stuckComparisons && c.r.mayRestart(c.pace.interval) {
			return errBehind
		}
		timer.Reset(next - next/5 + rand.N(next*2/5+1))
	}
}

// check compares until the sets are equal, or until there is no use in it, and returns
// the last outcome.
func (c *antiEntropy) check(ctx context.Context) (outcome streams.InventoryState, err error) {
	again := c.pace.repeat
	if err := c.caughtUp.await(ctx); err != nil {
		return "", err
	}
	c.stuck = 0
	for range maxComparisons {
		before := c.position
		if outcome, err = c.compare(ctx); err != nil {
			return "", err
		}
		if c.stuck++; outcome != streams.InventoryBehind || c.position != before {
			c.stuck = 0
		}
		c.r.counts.checks.WithLabelValues(string(outcome)).Inc()
		if outcome == streams.InventoryEqual {
			c.stuck = 0
			return outcome, nil
		}
		c.r.log.Info("manifest not equal", zap.String("outcome", string(outcome)))
		if c.stuck >= stuckComparisons {
			return outcome, nil
		}
		// What is missing is on its way: until it is here, or a while.
		if err := c.caughtUp.next(ctx, again); err != nil {
			return "", err
		}
		again = min(2*again, 15*time.Second)
	}
	return outcome, nil
}

// mayRestart says whether a session may end because the bridge says behind: once in an
// interval, as a bridge that is not ready says so too.
func (r *replicator) mayRestart(interval time.Duration) bool {
	if time.Since(r.restarted) < interval {
		return false
	}
	r.restarted = time.Now()
	return true
}

// level is whether the site has caught up, as far as is known.
type signal struct {
	mu      sync.Mutex
	on      bool
	changed chan struct{}
}

func (l *signal) set(up bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.on = up; up {
		close(l.changed)
		l.changed = make(chan struct{})
	}
}

// await returns when the site has caught up.
func (l *signal) await(ctx context.Context) error {
	for {
		l.mu.Lock()
		up, changed := l.on, l.changed
		l.mu.Unlock()
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
func (l *signal) next(ctx context.Context, patience time.Duration) error {
	l.mu.Lock()
	changed := l.changed
	l.mu.Unlock()
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
