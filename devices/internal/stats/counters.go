// Package stats counts what a device host does.
package stats

import (
	"maps"
	"sync"
	"sync/atomic"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// States are all states of a device, the labels of Stats. Unknown is that of a device that
// was not contacted yet, or waits for its model.
var States = []string{
	v1beta1.StateOnline, devices.StateDegraded, v1beta1.StateOffline, devices.StateDisabled, devices.StateMisconfigured, v1beta1.StateUnknown,
}

// Acks are all acks, the labels of Stats.
var Acks = []devices.Ack{devices.Pending, devices.Applied, devices.Rejected, devices.Failed, devices.Superseded, devices.Expired, devices.Drifted}

// Counters are the counters of a host. They are safe for concurrent use; what each counts is
// described at devices.Stats.
type Counters struct {
	Readings, Late, Samples, Batches, Dropped, Statuses, Events, Suppressed, Stale atomic.Uint64
	Waiting, Pending                                                               atomic.Int64

	mu       sync.Mutex
	devices  map[string]int
	writes   map[devices.Ack]uint64
	commands map[devices.Ack]uint64
}

// New returns counters that are zero.
func New() *Counters {
	m := &Counters{devices: map[string]int{}, writes: map[devices.Ack]uint64{}, commands: map[devices.Ack]uint64{}}
	for _, s := range States {
		m.devices[s] = 0
	}
	for _, a := range Acks {
		m.writes[a], m.commands[a] = 0, 0
	}
	return m
}

// MoveDevice counts a device that changes its state; empty is none.
func (m *Counters) MoveDevice(from, to string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if from != "" {
		m.devices[from]--
	}
	if to != "" {
		m.devices[to]++
	}
}

// CountWrite counts a concluded desired value.
func (m *Counters) CountWrite(a devices.Ack) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.writes[a]++
}

// CountCommand counts a finished command.
func (m *Counters) CountCommand(a devices.Ack) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.commands[a]++
}

// Snapshot returns the counters. It does not block.
func (m *Counters) Snapshot() devices.Stats {
	s := devices.Stats{
		Readings: m.Readings.Load(), Late: m.Late.Load(), Samples: m.Samples.Load(), Batches: m.Batches.Load(),
		DroppedBatches: m.Dropped.Load(), Statuses: m.Statuses.Load(), Events: m.Events.Load(),
		SuppressedEvents: m.Suppressed.Load(), StaleObjects: m.Stale.Load(), Waiting: m.Waiting.Load(), PendingCommands: m.Pending.Load(),
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s.Devices, s.Writes, s.Commands = maps.Clone(m.devices), maps.Clone(m.writes), maps.Clone(m.commands)
	return s
}
