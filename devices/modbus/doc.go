// Package modbus is the devices.Driver for Modbus: TCP, TLS, UDP, RTU on a serial
// line and RTU over TCP.
//
// Guarantees: one goroutine owns a link, so that all units behind one endpoint share
// one connection and nothing interleaves with a read-modify-write; commands go before
// desired values, those before polls, polls keep a share, and probes of silent units
// come last; what several devices want of one unit is asked for once; every transaction
// has an absolute deadline, and an answer that is not exactly the one asked for never
// becomes a value; a silent unit is asked ever more rarely and costs the others nothing
// else.
//
// The settings it reads from configData are those of KubeEdge's Modbus mappers, and
// more; the comments of settings and parsePoint list them. It calls goburrow/modbus to
// encode requests and to decode answers; connections, framing and timing are its own.
package modbus
