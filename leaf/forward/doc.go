// Package forward sends the records and the reported state of a site to the hub.
//
// It guarantees that a message is acknowledged at the site only after the hub's JetStream has
// confirmed that it stored it, that messages arrive in order, and that a gap record takes the place
// of each telemetry record that a limit dropped before. It holds no messages in memory while the
// link is down, so that newer states replace older ones in the stream. It asks the bridge up to
// where the hub has the stream, and goes on without an answer. The leaf calls it, once for each
// stream.
package forward
