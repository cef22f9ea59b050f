// Package devices describes the devices of a node as drivers and the leaf see them: their
// definitions, values, desired values and commands, and what they report.
//
// A Driver opens a Session for each Definition, which Resolve merges from a Device and its
// DeviceModel. Package host operates the sessions: it stores what the devices report in a
// Sink, and what must survive restarts in a State. The package depends on neither NATS nor
// the API server nor any protocol.
package devices
