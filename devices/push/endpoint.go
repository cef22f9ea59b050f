package push

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"sync/atomic"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/devices/internal/backoff"
	"github.com/petiole-io/petiole/internal/logonce"
)

// sender delivers one message after the other to an endpoint.
type sender interface {
	// send returns nil after the endpoint has accepted the message. An error that wraps
	// errRefused is final.
	send(ctx context.Context, m Message) error
	close()
}

// endpoint is a web server or a broker, with the queue of messages to it.
type endpoint struct {
	address  string
	queue    *queue
	sender   sender
	log      *zap.Logger
	failures *logonce.Reporter
	// unused is closed when no device uses the endpoint any longer.
	unused        chan struct{}
	sent, refused atomic.Uint64
}

func newEndpoint(address string, limit int, log *zap.Logger) *endpoint {
	e := &endpoint{address: address, queue: newQueue(limit), unused: make(chan struct{})}
	e.log = log.With(zap.String("endpoint", redacted(address)))
	e.failures = logonce.New(e.log)
	if strings.HasPrefix(address, "http") {
		e.sender = newWeb()
	} else {
		e.sender = newBroker(address)
	}
	return e
}

// run sends until ctx ends or the endpoint is unused.
func (e *endpoint) run(ctx context.Context) {
	defer e.sender.close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-e.unused:
			cancel()
		case <-ctx.Done():
		}
	}()
	for ctx.Err() == nil {
		m, ok := e.queue.pop()
		if !ok {
			select {
			case <-e.queue.wake:
			case <-ctx.Done():
			}
			continue
		}
		e.deliver(ctx, m)
	}
}

// deliver retries until the endpoint accepts the message or refuses it for good.
func (e *endpoint) deliver(ctx context.Context, m Message) {
	retry := backoff.Backoff{First: retryWait, Max: retryWaitMax}
	for {
		attempt, cancel := context.WithTimeout(ctx, m.Target.Timeout)
		err := e.sender.send(attempt, m)
		cancel()
		switch {
		case errors.Is(err, errRefused):
			if e.refused.Add(1) == 1 {
				e.log.Warn("endpoint refuses samples; further refusals are counted only", zap.Error(err))
			}
			return
		case err != nil && ctx.Err() != nil:
			return
		}
		e.failures.Report("push samples", err)
		if err == nil {
			e.sent.Add(1)
			return
		}
		if !retry.Wait(ctx) {
			return
		}
	}
}

func (e *endpoint) stats() Stats {
	s := Stats{Endpoint: redacted(e.address), Sent: e.sent.Load(), Refused: e.refused.Load()}
	s.Waiting, s.Dropped = e.queue.state()
	return s
}

// redacted returns an address without its password.
func redacted(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "?"
	}
	return u.Redacted()
}
