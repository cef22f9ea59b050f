// Package transfer bounds what crosses the line to the hub in one commit, and stores it there: a
// Publisher publishes a batch to the JetStream of one domain.
//
// It guarantees that a batch is stored completely or not at all, and that no acknowledgement of
// another domain counts. It stores nothing and starts nothing by itself. The replicator and the
// forwarders call it.
package transfer

import "time"

const (
	// BatchMessages bounds the messages of one commit, which takes one round trip.
	BatchMessages = 256
	// BatchBytes bounds the bytes of one commit.
	BatchBytes = 256 << 10
	// HubWait is how long the hub may take to answer, without the time that the question and the
	// answer take on the line.
	HubWait = 15 * time.Second
	// slowestLink is the rate of the slowest supported link in bytes per second: 64 kbit/s shared
	// with other traffic.
	slowestLink = 4 << 10
)

// Duration returns how long a number of bytes takes on the slowest supported link.
func Duration(bytes int) time.Duration { return time.Duration(bytes) * time.Second / slowestLink }
