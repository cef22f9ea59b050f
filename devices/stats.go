package devices

import (
	"maps"
	"sync"
	"sync/atomic"
)

// Stats are counters of a host since its creation, and gauges. The keys of the maps are
// bounded: all states and all acks, each of them present.
type Stats struct {
	// Devices are the devices by state.
	Devices map[string]int
	// Readings counts readings of drivers, Late those that were ignored because a newer one
	// was known. Samples and Batches count those queued for the sink, and DroppedBatches
	// those lost from the queue because the sink stored nothing for too long.
	Readings, Late, Samples, Batches, DroppedBatches uint64
	// Statuses counts the statuses that the sink stored.
	Statuses uint64
	// Writes counts concluded desired values and Commands finished commands, by ack.
	Writes, Commands map[Ack]uint64
	// Events counts events, SuppressedEvents those suppressed because a device had too many.
	Events, SuppressedEvents uint64
	// StaleObjects counts Device objects that were older than one seen before.
	StaleObjects uint64
	// Waiting is the number of records that wait for the sink, PendingCommands that of
	// commands without a result.
	Waiting, PendingCommands int64
}

// counters are the counters of a host.
type counters struct {
	readings, late, samples, batches, dropped, statuses, events, suppressed, stale atomic.Uint64
	waiting, pending                                                               atomic.Int64

	mu       sync.Mutex
	devices  map[string]int
	writes   map[Ack]uint64
	commands map[Ack]uint64
}

func newCounters() *counters {
	m := &counters{devices: map[string]int{}, writes: map[Ack]uint64{}, commands: map[Ack]uint64{}}
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

func (m *counters) countWrite(a Ack) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.writes[a]++
}

func (m *counters) countCommand(a Ack) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.commands[a]++
}

// Stats returns the counters. It does not block.
func (h *Host) Stats() Stats {
	m := h.counters
	s := Stats{
		Readings: m.readings.Load(), Late: m.late.Load(), Samples: m.samples.Load(), Batches: m.batches.Load(),
		DroppedBatches: m.dropped.Load(), Statuses: m.statuses.Load(), Events: m.events.Load(),
		SuppressedEvents: m.suppressed.Load(), StaleObjects: m.stale.Load(), Waiting: m.waiting.Load(), PendingCommands: m.pending.Load(),
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s.Devices, s.Writes, s.Commands = maps.Clone(m.devices), maps.Clone(m.writes), maps.Clone(m.commands)
	return s
}
