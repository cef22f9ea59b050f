package devices

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
