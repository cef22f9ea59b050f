// Package push sends samples to where the Device API's push methods say: web hooks and
// MQTT brokers outside of the system.
//
// It is best effort beside the telemetry stream, which alone is durable: nothing that is
// pushed holds up a device or its telemetry, what cannot be delivered is tried again from
// a bounded queue, in order and at least once, and what the queue cannot hold is dropped,
// oldest first, and counted. Databases and OpenTelemetry are refused with a reason: a
// consumer of the telemetry stream feeds them without losing anything. The leaf calls it.
package push
