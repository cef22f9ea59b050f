// Package mqtt speaks KubeEdge's device topics with applications at the site, over the
// MQTT listener of the site's nats-server.
//
// Applications read twins and states, follow samples and changes, and set properties;
// what they set is a command, carried out at most once for its event_id. The package
// holds what was last told of each device and nothing else: it stores nothing, holds up
// no device, and what is published is delivered to those who listen at that moment. The
// durable record is the telemetry stream. Package field calls it.
package mqtt
