// Package modbus is the devices.Driver for Modbus: TCP, TLS, UDP, RTU on a serial
// line and RTU over TCP.
//
// Guarantees: one goroutine owns a link, so that all units behind one endpoint share
// one connection and nothing interleaves with a read-modify-write; commands go before
// desired values, those before polls, polls keep a share, and probes of silent units
// come last; a register that several devices read is requested once; every transaction
// has an absolute deadline, and a reply that does not match its request exactly never
// becomes a value; a silent unit is probed at growing intervals, so that it does not slow
// down the other units of its link.
//
// The settings it reads from configData are those of KubeEdge's Modbus mappers, and
// more; the comments of settings, wire.ReadEndpoint, parsePoint and codec.Read list them.
// Package codec converts registers into values, package plan decides which registers a request
// reads, package link runs the jobs of sessions and pollers on a shared connection, and package
// wire sends requests and finds their replies.
package modbus
