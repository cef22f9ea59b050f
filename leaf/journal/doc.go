// Package journal is what a leaf remembers about its streams across restarts, so that it notices
// when a stream holds less than before: a Timeline of the runs that wrote to a stream, Checkpoints
// of how far each stream had come, and a DropLog of the records that the hub will never get.
//
// It guarantees that a record never has the id of another one, also after the store was rolled
// back or copied, and that a loss that was noticed is on disk before anybody acts on it. It
// compares and remembers; the leaf finds out what the streams hold, and reports. The store
// supervisor and the forwarders call it.
package journal
