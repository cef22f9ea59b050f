// Package traffic accounts for what the link to the hub carries: by kind and direction, for each of
// the last days.
//
// It guarantees that the sum of a day is what the connection carried as the kernel counts it, except
// for the last seconds of a connection that was cut; that the days are those of the bridge's clock,
// so that a gateway whose own clock is wrong counts right; and that a restart loses the last minutes
// at most. It writes a small file every few minutes while something changes, never for a message. The
// division among kinds is an estimate: see divide. The leaf calls it.
package traffic
