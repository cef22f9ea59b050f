// Package push sends samples to the targets of the Device API's push methods: web hooks and
// MQTT brokers outside of the system.
//
// It is best effort, in addition to the telemetry stream, which alone is durable: pushing
// never holds up a device or its telemetry, messages that cannot be delivered are retried
// from a bounded queue, in order and at least once, and those that do not fit into the queue
// are dropped, oldest first, and counted. Databases and OpenTelemetry are refused with a
// reason: a consumer of the telemetry stream can feed them without loss. The leaf calls it.
package push
