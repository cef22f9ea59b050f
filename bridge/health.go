package bridge

import (
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// apiGrace is the time for which the API server may fail before the bridge is no longer ready.
const apiGrace = 15 * time.Second

// health holds the inputs of the readiness check. It is safe for concurrent use.
type health struct {
	hub             atomic.Pointer[nats.Conn]
	leading, acting atomic.Bool
	// election is why this bridge cannot compete for the lease, nil if it can.
	election atomic.Pointer[error]
	// problem is why the components do not run.
	problem atomic.Pointer[error]
}

// ready returns nil if the bridge is active, or on standby with hub and API server available and
// the right to take over.
// Its error has one line per reason.
func (b *Bridge) ready() error {
	var reasons []error
	if err := b.metrics.requests.lastFailure(time.Now(), apiGrace); err != nil {
		reasons = append(reasons, fmt.Errorf("API server: %w", err))
	}
	if !b.metrics.health.connected() {
		reasons = append(reasons, errors.New("hub: not connected"))
	}
	if why := b.metrics.health.election.Load(); why != nil {
		reasons = append(reasons, fmt.Errorf("leader election: %w", *why))
	}
	if b.metrics.health.leading.Load() && !b.metrics.health.acting.Load() {
		err := errors.New("leading, but not active yet")
		if why := b.metrics.health.problem.Load(); why != nil {
			err = fmt.Errorf("%w: %w", err, *why)
		}
		reasons = append(reasons, err)
	}
	return errors.Join(reasons...)
}

// elected records the outcome of a request for the lease. An error that the API server did not send, or
// that concerns itself, is no statement about this bridge: requestMetrics has it.
func (h *health) elected(err error) {
	var answer apierrors.APIStatus
	switch {
	case err == nil:
		h.election.Store(nil)
	case errors.As(err, &answer) && answer.Status().Code < http.StatusInternalServerError && !apierrors.IsTooManyRequests(err):
		h.election.Store(&err)
	}
}

// connected reports whether the hub is connected.
func (h *health) connected() bool {
	nc := h.hub.Load()
	return nc != nil && nc.IsConnected()
}
