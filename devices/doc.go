// Package devices keeps the devices of one node in step with what is desired of
// them and tells what is true of them.
//
// Guarantees: every device has a worker of its own, so that a wrong or silent one
// never holds up another; a desired value is written at most once for each change,
// also across restarts, and only after it has been checked; a reported value is the
// last good one, with its quality, its reason and the time it was read; samples
// leave in the order in which they were taken.
//
// The leaf calls it: it feeds a Host with Device and DeviceModel objects, and gives
// it a Sink for what comes back, a State that survives restarts, and a Driver for
// each protocol. The package knows neither NATS nor the API server nor any protocol.
package devices
