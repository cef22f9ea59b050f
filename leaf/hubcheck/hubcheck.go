package hubcheck

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/leaf/link"
	"github.com/petiole-io/petiole/leaf/transfer"
	"github.com/petiole-io/petiole/streams"
)

const (
	// settle is the default of Config.Settle. The subjects are looked at every poll.
	settle = 15 * time.Second
	poll   = 200 * time.Millisecond
	// answerWait is how long the bridge may take to answer.
	answerWait = 15 * time.Second
	// answerPatience is the time after which an unanswered request is repeated for the first time.
	answerPatience = 2 * time.Second
	// refresh is the time between two checks, again that while something is missing.
	refresh = 10 * time.Minute
	again   = 15 * time.Second
)

// Config configures a Checker.
type Config struct {
	Site string
	Conn *nats.Conn
	Link *link.Link
	// Imports reports whether the hub takes messages on a subject. It is nil if that cannot be
	// seen, as with a nats-server outside of this process.
	Imports func(subject string) bool
	// Settle is how long the subjects of the hub may take to become known after the link came up;
	// default 15 s. A slow line takes a few seconds for them.
	Settle time.Duration
	// Refresh is the time between two checks; default 10 min.
	Refresh time.Duration
	// Measured takes note of the hub's time, which was read within a round trip that has just ended.
	Measured func(hub time.Time, roundTrip time.Duration)
	Meter    *transfer.Meter
	Log      *zap.Logger
}

// Checker knows what the hub offers. Use New. It is safe for concurrent use.
type Checker struct {
	cfg       Config
	requester transfer.Requester

	mu       sync.Mutex
	hub      streams.HubInfo
	problems []string
	checked  bool
}

// New returns a checker that has not started.
func New(cfg Config) *Checker {
	cfg.Refresh = cmp.Or(cfg.Refresh, refresh)
	cfg.Settle = cmp.Or(cfg.Settle, settle)
	return &Checker{cfg: cfg, requester: transfer.Requester{Conn: cfg.Conn, Meter: cfg.Meter}}
}

// MaxPayload returns the size of the largest message that both ends of the link take, as far as is
// known.
func (c *Checker) MaxPayload() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	most := c.cfg.Conn.MaxPayload()
	if c.hub.MaxPayload > 0 {
		most = min(most, c.hub.MaxPayload)
	}
	return int(most)
}

// Problems returns what the hub lacks, a sentence each, sorted.
func (c *Checker) Problems() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.problems)
}

// Checked reports whether the hub was checked at least once.
func (c *Checker) Checked() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.checked
}

// Err returns the problems as an error, nil if there are none.
func (c *Checker) Err() error {
	p := c.Problems()
	if len(p) == 0 {
		return nil
	}
	return errors.New("hub: " + strings.Join(p, "; "))
}

// Run checks until ctx ends.
func (c *Checker) Run(ctx context.Context) error {
	for {
		up, _, changed := c.cfg.Link.State()
		var next <-chan time.Time
		if up {
			delay := c.cfg.Refresh
			if !c.check(ctx, changed) {
				delay = min(again, c.cfg.Refresh)
			}
			next = time.After(delay)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-next:
		}
	}
}

// check checks once, unless the link changes. It returns true if nothing is missing.
func (c *Checker) check(ctx context.Context, changed <-chan struct{}) bool {
	ctx, cancel := context.WithCancel(ctx)
	answered := make(chan bool, 1)
	go func() { answered <- c.ask(ctx) }()
	known := false
	received := false
	defer func() {
		cancel()
		if !received {
			<-answered
		}
	}()
	missing := c.missing()
	for deadline := time.Now().Add(c.cfg.Settle); len(missing) > 0 && time.Now().Before(deadline); missing = c.missing() {
		select {
		case <-ctx.Done():
			return true
		case <-changed:
			return true
		case <-time.After(poll):
		}
	}
	c.report(missing)
	select {
	case <-changed:
		return true
	case known = <-answered:
		received = true
	}
	return c.report(missing) && known
}

// report records and logs what is missing, and what the hub lacks according to the bridge. It
// returns true if that is nothing.
func (c *Checker) report(missing []string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	problems := append(slices.Clone(missing), c.hub.Problems()...)
	slices.Sort(problems)
	c.checked = true
	if !slices.Equal(problems, c.problems) {
		for _, p := range problems {
			c.cfg.Log.Error("the hub lacks something that this site needs", zap.String("problem", p))
		}
		if len(problems) == 0 {
			c.cfg.Log.Info("the hub has everything that this site needs")
		}
		c.problems = problems
	}
	return len(problems) == 0
}

// missing returns a sentence for each subject that the hub does not take.
func (c *Checker) missing() (out []string) {
	if c.cfg.Imports == nil {
		return nil
	}
	for subject, without := range streams.ServiceImports(c.cfg.Site) {
		probe := strings.TrimSuffix(subject, ">")
		if probe != subject {
			probe += "check"
		}
		if !c.cfg.Imports(probe) {
			out = append(out, fmt.Sprintf("the site's account at the hub does not import %s: %s", subject, without))
		}
	}
	return out
}

// ask asks the bridge what the hub offers, again if there is no answer: a request or its answer can
// be lost while the connection comes up. It reports whether there was an answer.
func (c *Checker) ask(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	for patience := answerPatience; ; patience *= 2 {
		asked := time.Now()
		attempt, done := context.WithTimeout(ctx, patience)
		reply, err := c.requester.RequestWithContext(attempt, streams.RequestSubject(c.cfg.Site, streams.RequestHub), nil)
		done()
		if err == nil {
			return c.answered(reply.Data, time.Since(asked))
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(poll):
		}
	}
}

// answered records an answer of the bridge, unless it is the error of an earlier version.
func (c *Checker) answered(data []byte, roundTrip time.Duration) bool {
	var a streams.HubInfo
	if err := json.Unmarshal(data, &a); err != nil || a.Error != "" {
		return false
	}
	if !a.Time.IsZero() {
		c.cfg.Measured(a.Time, roundTrip)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hub = a
	return true
}
