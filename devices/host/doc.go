// Package host operates the devices of one node: it applies desired values, carries out
// commands, and reports state and samples.
//
// Guarantees: every device has its own worker, so that a faulty or silent one never holds up
// another; a desired value is written at most once for each change, also across restarts,
// after it was validated, and again only if its drift policy says so; a command is carried
// out at most once for its id and never after its deadline; an object older than one seen
// before causes no writes; a reported value is the last good one, with its quality, its
// reason and the time it was read; samples leave in the order in which they were taken; a
// device has at most one status in each interval.
//
// The leaf calls it: it passes Device and DeviceModel objects and Commands to a Host, and
// provides a Sink for reports, a State that survives restarts, and a Driver for each
// protocol.
package host
