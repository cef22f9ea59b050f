package leaf

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/leaf/natsd"
)

const (
	// The embedded server is polled for its leaf connection every linkPoll, and every downPoll
	// while there is none, which is cheaper.
	linkPoll = 200 * time.Millisecond
	downPoll = 20 * time.Millisecond
)

// link knows whether the site is connected to the hub.
//
// With the embedded server it is exact. With a nats-server outside of this process it cannot
// know, and reports up: callers find out by sending.
type link struct {
	host   *natsd.Server
	counts *counts
	log    *zap.Logger

	mu      sync.Mutex
	up      bool
	conn    uint64 // the leaf connection's id: a new one is a change
	since   time.Time
	changed chan struct{} // closed and replaced at each change
}

func newLink(h *natsd.Server, c *counts, log *zap.Logger) *link {
	return &link{host: h, counts: c, log: log, up: h == nil, since: time.Now(), changed: make(chan struct{})}
}

// Run follows the link until ctx ends.
func (l *link) Run(ctx context.Context) error {
	if l.host == nil {
		<-ctx.Done()
		return nil
	}
	for {
		conn, next := l.host.HubConnection(), linkPoll
		if conn == 0 {
			next = downPoll
		}
		l.set(conn)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(next):
		}
	}
}

func (l *link) set(conn uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn == conn {
		return
	}
	l.conn = conn
	up := conn != 0
	l.log.Info("link changed", zap.Bool("up", up), zap.Duration("after", time.Since(l.since).Round(time.Millisecond)))
	l.up, l.since = up, time.Now()
	l.counts.linkChanges.Inc()
	close(l.changed)
	l.changed = make(chan struct{})
}

// State returns whether the link is up, since when, and a channel that is closed at
// the next change.
func (l *link) State() (up bool, since time.Time, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.up, l.since, l.changed
}

// WaitUp blocks until the link is up or ctx ends.
func (l *link) WaitUp(ctx context.Context) error {
	for {
		up, _, changed := l.State()
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
