package bridge

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

// apiGrace is for how long the API server may fail before the bridge says that it is
// not ready.
const apiGrace = 15 * time.Second

// health knows whether this bridge can do what it is there for. It is safe for
// concurrent use.
type health struct {
	hub             atomic.Pointer[nats.Conn]
	leading, acting atomic.Bool
}

// ready is nil when the bridge acts, or stands by to act at once: hub and API server
// answer. Its error has a line for each reason.
func (b *Bridge) ready() error {
	var reasons []error
	if err := b.metrics.requests.lastFailure(time.Now(), apiGrace); err != nil {
		reasons = append(reasons, fmt.Errorf("API server: %w", err))
	}
	if !b.metrics.health.connected() {
		reasons = append(reasons, errors.New("hub: not connected"))
	}
	if b.metrics.health.leading.Load() && !b.metrics.health.acting.Load() {
		reasons = append(reasons, errors.New("leading, and not acting yet"))
	}
	return errors.Join(reasons...)
}

// connected says whether the hub is.
func (h *health) connected() bool {
	nc := h.hub.Load()
	return nc != nil && nc.IsConnected()
}
