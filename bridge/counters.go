package bridge

import "sync/atomic"

// counters count what is not worth a log line.
type counters struct {
	published, tombstones atomic.Uint64
	accepted, dropped     atomic.Uint64
	quarantined, strays   atomic.Uint64
	tokens                atomic.Uint64
}

// Counters is a snapshot of what a bridge has done since it started.
type Counters struct {
	// Published and Tombstones count messages stored in DESIRED.
	Published, Tombstones uint64
	// Accepted counts reports that the API server took over; Dropped those about
	// objects that are gone or were replaced; Quarantined those that were unreadable
	// or refused; Strays those of sites without a Site object.
	Accepted, Dropped, Quarantined, Strays uint64
	// Tokens counts service account tokens handed out.
	Tokens uint64
}

func (c *counters) snapshot() Counters {
	return Counters{
		Published: c.published.Load(), Tombstones: c.tombstones.Load(),
		Accepted: c.accepted.Load(), Dropped: c.dropped.Load(),
		Quarantined: c.quarantined.Load(), Strays: c.strays.Load(), Tokens: c.tokens.Load(),
	}
}
