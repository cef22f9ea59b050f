package store

import (
	"time"

	"github.com/petiole-io/petiole/leaf/natsd"
)

const defaultMaxIdleChecks = 60

// idle finds that the embedded server has stopped trying to reach the hub. It counts checks
// instead of time, so that a suspended process or a clock that jumps has no effect.
type idle struct {
	server *natsd.Server
	// checks counts the consecutive checks that found neither a connection to the hub nor an
	// attempt at one. After most of them, and those that fit between two attempts, the server is
	// idle.
	checks, most int
}

// check checks once. It returns for how long the server has been idle if it has to be restarted,
// and otherwise 0.
func (i *idle) check() time.Duration {
	if !i.server.Idle() {
		i.checks = 0
		return 0
	}
	if i.checks++; i.checks < i.most+int(i.server.AttemptInterval()/CheckInterval) {
		return 0
	}
	after := time.Duration(i.checks) * CheckInterval
	i.checks = 0
	return after
}
