// Package store looks after the streams of a site: that they exist, that they are whole, and that
// the disk has room for them.
//
// It guarantees that desired state which is incomplete is shown to nobody (Desired.Complete), that a
// loss is recorded before anything is built on what is left, and that telemetry yields to the rest
// of the store on a small disk. A full disk and damaged files are states that it recovers from by
// itself. It sends nothing to the hub. Where the nats-server runs outside of this process it leaves
// the files alone. The leaf calls it.
package store
