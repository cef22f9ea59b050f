package leaf

import (
	"context"
	"time"

	"go.uber.org/zap"
)

// defaultMaxIdleChecks is how many consecutive checks (checkInterval) must find neither a
// connection to the hub nor an attempt at one before the embedded server is restarted. Checks are
// counted instead of time, so that a suspended process or a clock that jumps has no effect.
const defaultMaxIdleChecks = 60

// idleLimit returns the number of consecutive idle checks after which the server is restarted.
func (k *storeSupervisor) idleLimit() int {
	return k.maxIdleChecks + int(k.host.AttemptInterval()/checkInterval)
}

// restartIdle restarts the embedded server if it has stopped trying to reach the hub, and
// reports whether it did.
func (k *storeSupervisor) restartIdle(ctx context.Context) bool {
	if !k.host.Idle() {
		k.idleChecks = 0
		return false
	}
	if k.idleChecks++; k.idleChecks < k.idleLimit() {
		return false
	}
	k.log.Error("restarting the embedded server, it no longer tries to reach the hub", zap.Duration("after", time.Duration(k.idleChecks)*checkInterval))
	k.idleChecks = 0
	k.counts.restarts.Inc()
	k.restart(ctx, func() error { return nil })
	return true
}
