// Package lab runs a whole Petiole on one Debian machine: control plane, NATS hub,
// bridge, registry, and sites in network namespaces with their own CRI-O, leaf, kubelet
// and Modbus slave.
//
// It guarantees that Up and Down are idempotent, that a site's link is the only way
// between it and the rest, and that Reboot keeps only what a power cut keeps of a site. It
// is for development and tests; it needs root. cmd/lab and the end-to-end suite call it.
package lab

import "io"

// Printer shows progress to a person.
type Printer struct{ Out io.Writer }
