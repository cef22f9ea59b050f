// Package journal is what a leaf remembers about its streams across restarts, so that it notices
// when a stream holds less than before: a Timeline of the runs that wrote to a stream, Checkpoints
// of how far each stream had come, and a DropLog of the records that the hub will never get.
//
// They lie in three places (docs/decisions/0018-rooms.md): a timeline with its stream, so that a copy
// of the store has its own; checkpoints in a file that is not synced, because they change all the
// time and an old one does no harm; drops in a file that is.
//
// It guarantees that a record never has the id of another one, also after the store was rolled
// back or copied, and that a loss that was noticed is on disk before anybody acts on it. It
// compares and remembers; the leaf finds out what the streams hold, and reports. The store
// supervisor and the forwarders call it.
package journal
