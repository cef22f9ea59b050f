// Package clocktest has a machine whose clock a test sets. Its uptime passes in real time, and it
// is booted as often as the test likes. Nothing outside tests may import it.
package clocktest

import (
	"fmt"
	"sync"
	"time"

	"github.com/petiole-io/petiole/leaf/clock"
)

// UptimeAtStart is how long a machine has been running when its processes start.
const UptimeAtStart = 12 * time.Second

// Machine is a machine with a clock. It is off until Boot. It is safe for concurrent use.
type Machine struct {
	mu     sync.Mutex
	boots  int
	since  time.Time     // in real time
	uptime time.Duration // at since
	wall   time.Time     // at since
	ntp    bool
}

// Boot boots the machine, and returns its clock, which says wall then.
func (m *Machine) Boot(wall time.Time) clock.Source {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.boots++
	m.since, m.uptime, m.wall, m.ntp = time.Now(), UptimeAtStart, wall.Round(0), false
	return m.source()
}

// Source returns the clock of the present boot, as a process that starts again gets it.
func (m *Machine) Source() clock.Source {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.source()
}

func (m *Machine) source() clock.Source {
	return clock.Source{
		Boot: fmt.Sprintf("boot-%d", m.boots),
		Wall: m.Wall,
		Uptime: func() time.Duration {
			m.mu.Lock()
			defer m.mu.Unlock()
			return m.uptime + time.Since(m.since)
		},
		Synchronized: func() (time.Duration, bool) {
			m.mu.Lock()
			defer m.mu.Unlock()
			return 10 * time.Millisecond, m.ntp
		},
	}
}

// Wall returns what the clock says.
func (m *Machine) Wall() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.wall.Add(time.Since(m.since))
}

// Set sets the clock, as by hand.
func (m *Machine) Set(wall time.Time) { m.set(wall, 0) }

// Step sets the clock ahead, or back.
func (m *Machine) Step(by time.Duration) { m.set(m.Wall().Add(by), 0) }

// Pass lets time pass.
func (m *Machine) Pass(d time.Duration) { m.set(m.Wall().Add(d), d) }

func (m *Machine) set(wall time.Time, passed time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	m.uptime += now.Sub(m.since) + passed
	m.since, m.wall = now, wall.Round(0)
}

// Synchronize has NTP set the clock, and keep it right from now on.
func (m *Machine) Synchronize(wall time.Time) {
	m.set(wall, 0)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ntp = true
}
