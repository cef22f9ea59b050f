package devices

import (
	"maps"
	"sync"
	"sync/atomic"
)

// Stats are counters of a host since it was made, and what is now. The keys of the
// maps are bounded: states and acks, each of them present.
type Stats struct {
	// Devices are the devices by state.
	Devices map[string]int
	// Readings counts what drivers delivered, Late those that were left out because a
	// newer one was known. Samples and Batches count what went to the sink's queue,
	// and DroppedBatches what was lost from it because the sink took nothing for too
	// long.
	Readings, Late, Samples, Batches, DroppedBatches uint64
	// Statuses counts the statuses that the sink took.
	Statuses uint64
	// Writes counts the ends of desired values and Commands those of commands, by ack.
	Writes, Commands map[Ack]uint64
	// Events counts events, SuppressedEvents those that were left out because a device
	// had too many.
	Events, SuppressedEvents uint64
	// StaleObjects counts Devices that were older than what was known.
	StaleObjects uint64
	// Waiting is how many records wait for the sink, PendingCommands how many commands
	// were received and not answered.
	Waiting, PendingCommands int64
}

// meters is what a host counts.
type meters struct {
	readings, late, samples, batches, dropped, statuses, events, suppressed, stale atomic.Uint64
	waiting, pending                                                               atomic.Int64

	mu       sync.Mutex
	devices  map[string]int
	writes   map[Ack]uint64
	commands map[Ack]uint64
}

func newMeters() *meters {
	m := &meters{devices: map[string]int{}, writes: map[Ack]uint64{}, commands: map[Ack]uint64{}}
	for _, s := range states {
		m.devices[s] = 0
	}
	for _, a := range acks {
		m.writes[a], m.commands[a] = 0, 0
	}
	return m
}

// move counts a device in another state; empty is none.
func (m *meters) move(from, to string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if from != "" {
		m.devices[from]--
	}
	if to != "" {
		m.devices[to]++
	}
}

func (m *meters) wrote(a Ack) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.writes[a]++
}

func (m *meters) commanded(a Ack) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.commands[a]++
}

// Stats tells what the host has counted. It does not wait for anything.
func (h *Host) Stats() Stats {
	m := h.meters
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
