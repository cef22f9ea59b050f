// Package dmi operates devices by mappers: programs that speak a protocol to devices
// and KubeEdge's Device Mapper Interface (v1beta1) to the leaf, over Unix sockets, in
// both directions. A mapper made for KubeEdge works unchanged.
//
// Guarantees: what a mapper shall have is brought to it until it has it, whether it,
// the leaf or the socket was away meanwhile, and a device that its mapper refuses holds
// up no other; a value is told to a mapper only after the device host asked for it, and
// counts as applied when the mapper reports it; a mapper that is gone makes its devices
// unreachable, with the reason. Reports are not limited in rate; a report that finds the
// device's queue full is refused, so that memory is bounded and nothing is lost unseen.
//
// The leaf runs a Server and gives it to the device host as the driver of every protocol
// that it has no driver for. The package knows no protocol itself, and starts no mapper.
package dmi
