package link

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
)

const (
	minBackoff = 200 * time.Millisecond
	maxBackoff = 5 * time.Second
	// settle bounds the delay of a session after a change of the link.
	settle = 100 * time.Millisecond
	// The subjects of the hub become known after the link is up: for as long as propagation, a
	// session that finds no responders starts again after about propagationDelay.
	propagation      = time.Second
	propagationDelay = 50 * time.Millisecond
)

// errChanged ends a session because what is in flight on the old connection is lost.
var errChanged = errors.New("the link to the hub changed")

// ErrBeganAgain ends a session because the hub delivers everything again. The hub is there, so
// that nobody waits for it.
var ErrBeganAgain = errors.New("the hub delivers everything again")

// Sessions runs one session after another until ctx ends, each from a time when the link is up
// until something fails or the link changes. A session returns how much it did: after progress
// the next one starts soon. The delay has jitter, so that the sites do not all return at once
// after an outage of the hub; after a change of the link it is short, since nats-server has
// waited for a random time before it connected, and so it is while the subjects of the hub become
// known. A failure is logged once until there is
// progress; changes of the link are logged elsewhere.
func (l *Link) Sessions(ctx context.Context, log *zap.Logger, session func(context.Context) (int, error)) error {
	backoff, waiting := minBackoff, false
	for {
		if l.waitUp(ctx) != nil {
			return nil
		}
		done, err := l.whileUp(ctx, session)
		if ctx.Err() != nil {
			return nil
		}
		if done > 0 {
			backoff, waiting = minBackoff, false
		}
		delay := backoff/2 + rand.N(backoff)
		switch {
		case errors.Is(err, errChanged):
			delay = rand.N(settle)
		case errors.Is(err, nats.ErrNoResponders) && l.upFor() < propagation:
			delay = propagationDelay/2 + rand.N(propagationDelay)
		case errors.Is(err, ErrBeganAgain):
			backoff = min(2*backoff, maxBackoff)
		case !waiting:
			log.Warn("waiting for the hub", zap.Error(err))
			waiting = true
			fallthrough
		default:
			backoff = min(2*backoff, maxBackoff)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(delay):
		}
	}
}

// upFor returns how long the link has been up, 0 while it is down.
func (l *Link) upFor() time.Duration {
	up, since, _ := l.State()
	if !up {
		return 0
	}
	return time.Since(since)
}

// whileUp runs one session, which ends when the link changes.
func (l *Link) whileUp(ctx context.Context, session func(context.Context) (int, error)) (int, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	_, _, changed := l.State()
	watched := make(chan struct{})
	defer func() { cancel(nil); <-watched }()
	go func() {
		defer close(watched)
		select {
		case <-ctx.Done():
		case <-changed:
			cancel(errChanged)
		}
	}()
	done, err := session(ctx)
	if cause := context.Cause(ctx); errors.Is(cause, errChanged) {
		err = cause
	}
	return done, err
}
