package leaf

import (
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// defaultMaxIdleChecks is how many consecutive checks (checkInterval) must find neither a
// connection to the hub nor an attempt at one before the embedded server is restarted.
//
// nats-server 2.15.2 can stop trying when a connection breaks by a write error while it is being
// set up; others have seen it on mobile links (nats-io/nats-server#7615). Checks are counted
// instead of time, so that a suspended process or a clock that jumps has no effect.
const defaultMaxIdleChecks = 60

// What nats-server logs about every attempt: that it failed, or that the hub answered.
const (
	attemptFailed  = "Error trying to connect as leafnode to remote server"
	attemptReached = "Leafnode connection created"
)

// attempts detects in the log of nats-server, the only place that shows it, whether the server
// tries to reach the hub. The zero value has seen no attempt. It is safe for concurrent use.
type attempts struct{ seen atomic.Bool }

// observe takes a format string that nats-server logs, with its arguments, and reports whether
// to log it: of failed attempts only the 1st, 2nd, 4th, 8th and so on.
func (a *attempts) observe(format string, args []any) bool {
	switch {
	case strings.HasPrefix(format, attemptFailed):
		a.seen.Store(true)
		n, ok := 0, false
		if len(args) > 1 {
			n, ok = args[1].(int)
		}
		return !ok || n&(n-1) == 0
	case strings.Contains(format, attemptReached):
		a.seen.Store(true)
	}
	return true
}

// idle reports whether the server has remotes, is connected to none of them, and has not tried
// since the last call.
func (h *embeddedServer) idle() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	tried := h.attempts.seen.Swap(false)
	return h.s != nil && h.remotes > 0 && !tried && h.s.NumLeafNodes() == 0
}

// idleLimit returns the number of consecutive idle checks after which the server is restarted.
func (k *storeSupervisor) idleLimit() int {
	k.host.mu.Lock()
	defer k.host.mu.Unlock()
	return k.maxIdleChecks + int(k.host.attemptInterval/checkInterval)
}

// restartIdle restarts the embedded server if it has stopped trying to reach the hub, and
// reports whether it did.
func (k *storeSupervisor) restartIdle(restart func()) bool {
	if !k.host.idle() {
		k.idleChecks = 0
		return false
	}
	if k.idleChecks++; k.idleChecks < k.idleLimit() {
		return false
	}
	k.log.Error("restarting the embedded server, it no longer tries to reach the hub", zap.Duration("after", time.Duration(k.idleChecks)*checkInterval))
	k.idleChecks = 0
	k.counts.restarts.Inc()
	restart()
	return true
}
