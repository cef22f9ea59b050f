// Package mqtt serves KubeEdge's device topics to applications at the site, over the MQTT
// listener of the site's nats-server.
//
// Applications read twins and states, receive samples and changes, and set properties. A
// property is set by a command, which is executed at most once for each event_id. The
// package keeps only the last published state of each device. It stores nothing, never
// blocks a device, and a message reaches only those who are subscribed when it is
// published: the durable record is the telemetry stream. Package field calls it.
package mqtt
