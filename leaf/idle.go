package leaf

import (
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// stallLooks is how many looks of the keeper (watchInterval) in a row have to find neither
// a connection to the hub nor an attempt at one, before the embedded server is restarted.
//
// nats-server 2.15.2 can stop trying when a connection breaks by a write error while it is
// being set up; others have seen it on mobile links (nats-io/nats-server#7615). Looks are
// counted instead of time, so that a process that slept, or a clock that jumped, says
// nothing.
const defaultMaxIdleChecks = 60

// What nats-server logs about every attempt: that it failed, or that the hub answered.
const (
	attemptFailed  = "Error trying to connect as leafnode to remote server"
	attemptReached = "Leafnode connection created"
)

// attempts knows from nats-server's log whether it tries to reach the hub: it has no other
// way to tell. The zero value has seen none. It is safe for concurrent use.
type attempts struct{ seen atomic.Bool }

// note looks at a format string that nats-server logs, with its arguments, and says
// whether it is worth logging: of failed attempts the 1st, 2nd, 4th, 8th and so on.
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

// idle says whether the server has remotes to connect to, is connected to none, and has not
// tried since the last call.
func (h *embeddedServer) idle() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	tried := h.attempts.seen.Swap(false)
	return h.s != nil && h.remotes > 0 && !tried && h.s.NumLeafNodes() == 0
}

// patience is after how many looks in a row with nobody trying the server is restarted.
func (k *storeSupervisor) idleLimit() int {
	k.host.mu.Lock()
	defer k.host.mu.Unlock()
	return k.maxIdleChecks + int(k.host.attemptInterval/checkInterval)
}

// unstick restarts the embedded server when nobody tries to reach the hub any more, and
// says whether it did.
func (k *storeSupervisor) restartIdle(restart func()) bool {
	if !k.host.idle() {
		k.idleChecks = 0
		return false
	}
	if k.idleChecks++; k.idleChecks < k.idleLimit() {
		return false
	}
	k.log.Error("restarting the embedded server, which does not try to reach the hub any more", zap.Duration("after", time.Duration(k.idleChecks)*checkInterval))
	k.idleChecks = 0
	k.counts.restarts.Inc()
	restart()
	return true
}
