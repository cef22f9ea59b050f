// Package link follows the connection of the site to the hub: whether it is up, since when, and
// one session after another while it is.
//
// It guarantees that a session ends when the connection changes, because what is in flight on
// the old one is lost, and that the sites do not all return at once after an outage of the hub.
// With a nats-server outside of this process it cannot see the connection, and reports up:
// callers find out by sending. The replicator, the forwarders and the heartbeat call it.
package link

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

const (
	// The connection is polled every upPoll, and every downPoll while there is none, which is
	// cheaper.
	upPoll   = 200 * time.Millisecond
	downPoll = 20 * time.Millisecond
)

// Link knows whether the site is connected to the hub. Use New. It is safe for concurrent use.
type Link struct {
	connection func() uint64
	changes    prometheus.Counter
	log        *zap.Logger

	mu      sync.Mutex
	up      bool
	conn    uint64 // the connection's id: a new one is a change
	since   time.Time
	changed chan struct{} // closed and replaced at each change
}

// New returns a link that is followed by connection, which returns the id of the connection to
// the hub, or 0 if there is none. If connection is nil, the link cannot be followed and is always
// up. changes counts the changes.
func New(connection func() uint64, changes prometheus.Counter, log *zap.Logger) *Link {
	return &Link{
		connection: connection, changes: changes, log: log,
		up: connection == nil, since: time.Now(), changed: make(chan struct{}),
	}
}

// Run follows the link until ctx ends.
func (l *Link) Run(ctx context.Context) error {
	if l.connection == nil {
		<-ctx.Done()
		return nil
	}
	for {
		conn, next := l.connection(), upPoll
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

func (l *Link) set(conn uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn == conn {
		return
	}
	l.conn = conn
	up := conn != 0
	l.log.Info("link changed", zap.Bool("up", up), zap.Duration("after", time.Since(l.since).Round(time.Millisecond)))
	l.up, l.since = up, time.Now()
	l.changes.Inc()
	close(l.changed)
	l.changed = make(chan struct{})
}

// State returns whether the link is up, since when, and a channel that is closed at
// the next change.
func (l *Link) State() (up bool, since time.Time, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.up, l.since, l.changed
}

// waitUp blocks until the link is up or ctx ends.
func (l *Link) waitUp(ctx context.Context) error {
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
