// Package devices keeps the devices of one node in step with what is desired of
// them, carries out commands, and tells what is true of them.
//
// Guarantees: every device has a worker of its own, so that a wrong or silent one
// never holds up another; a desired value is written at most once for each change,
// also across restarts, and only after it has been checked, and written again only
// where its drift policy asks for it; a command is carried out at most once for its
// id and never after its deadline; an object older than one that was seen writes
// nothing; a reported value is the last good one, with its quality, its reason and the
// time it was read; samples leave in the order in which they were taken; a device
// makes at most one status for each interval.
//
// The leaf calls it: it feeds a Host with Device and DeviceModel objects and with
// Commands, and gives it a Sink for what comes back, a State that survives restarts,
// and a Driver for each protocol. The package knows neither NATS nor the API server
// nor any protocol.
package devices
