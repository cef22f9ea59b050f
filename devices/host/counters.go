package host

import (
	"maps"
	"sync"
	"sync/atomic"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// states are all states of a device, the labels of Stats. Unknown is that of a device that
// was not contacted yet, or waits for its model.
var states = []string{
	v1beta1.StateOnline, devices.StateDegraded, v1beta1.StateOffline, devices.StateDisabled, devices.StateMisconfigured, v1beta1.StateUnknown,
}

// acks are all acks, the labels of Stats.
var acks = []devices.Ack{devices.Pending, devices.Applied, devices.Rejected, devices.Failed, devices.Superseded, devices.Expired, devices.Drifted}

// counters are the counters of a host.
type counters struct {
	readings, late, samples, batches, dropped, statuses, events, suppressed, stale atomic.Uint64
	waiting, pending                                                               atomic.Int64

	mu       sync.Mutex
	devices  map[string]int
	writes   map[devices.Ack]uint64
	commands map[devices.Ack]uint64
}

func newCounters() *counters {
	m := &counters{devices: map[string]int{}, writes: map[devices.Ack]uint64{}, commands: map[devices.Ack]uint64{}}
	for _, s := range states {
		m.devices[s] = 0
	}
	for _, a := range acks {
		m.writes[a], m.commands[a] = 0, 0
	}
	return m
}

// moveDevice counts a device that changes its state; empty is none.
func (m *counters) moveDevice(from, to string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if from != "" {
		m.devices[from]--
	}
	if to != "" {
		m.devices[to]++
	}
}

func (m *counters) countWrite(a devices.Ack) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.writes[a]++
}

func (m *counters) countCommand(a devices.Ack) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.commands[a]++
}

// stats returns the counters. It does not block.
func (m *counters) stats() devices.Stats {
	s := devices.Stats{
		Readings: m.readings.Load(), Late: m.late.Load(), Samples: m.samples.Load(), Batches: m.batches.Load(),
		DroppedBatches: m.dropped.Load(), Statuses: m.statuses.Load(), Events: m.events.Load(),
		SuppressedEvents: m.suppressed.Load(), StaleObjects: m.stale.Load(), Waiting: m.waiting.Load(), PendingCommands: m.pending.Load(),
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s.Devices, s.Writes, s.Commands = maps.Clone(m.devices), maps.Clone(m.writes), maps.Clone(m.commands)
	return s
}
