// Package dmi operates devices through mappers: programs that speak a protocol to devices
// and KubeEdge's Device Mapper Interface (v1beta1) to the leaf, over Unix sockets, in both
// directions. A mapper written for KubeEdge works unchanged.
//
// Guarantees: a device is delivered to its mapper until the mapper has it, even if the
// mapper, the leaf or the socket was unavailable meanwhile, and a device that its mapper
// refuses holds up no other; a value is sent to a mapper only after the device host has
// asked for it, and is applied once the mapper reports it; a mapper that does not respond
// makes its devices unreachable, with the reason. Reports are not rate-limited; a report is
// refused if the device's queue is full, so that memory is bounded and nothing is lost
// silently.
//
// The leaf runs a Server and passes it to the device host as the driver of every protocol
// without a driver. The package implements no protocol itself, and starts no mapper.
package dmi
