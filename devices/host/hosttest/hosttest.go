// Package hosttest has a clock for the tests of hosts and drivers. Nothing outside tests may import
// it.
package hosttest

import (
	"sync/atomic"
	"time"

	"github.com/petiole-io/petiole/devices"
)

// Clock is a host.Clock of a clock that is right. The zero Clock numbers from 1.
type Clock struct{ epoch atomic.Int64 }

// NextEpoch returns the next number.
func (c *Clock) NextEpoch() int64 { return c.epoch.Add(1) }

// Mark returns nil.
func (*Clock) Mark() *devices.ClockMark { return nil }

// Until returns the time that is left until t.
func (*Clock) Until(t time.Time) (time.Duration, bool) { return time.Until(t), true }
