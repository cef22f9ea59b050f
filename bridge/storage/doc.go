// Package storage answers one question: has the API server's storage moved back? It was
// restored from a backup, rolled back under a running API server, or replaced by another
// cluster's. Resource versions are then no longer comparable with those that were published.
//
// Guarantees: a Monitor starts a new epoch before anything of a storage that moved back is
// published, as long as its caller waits (Monitor.Wait) before each write. A storage that goes
// on, and a restart of a bridge, an API server or a hub, starts none. The record of a later
// bridge deposes this one.
//
// The bridge uses it. It keeps its state in a record at the hub and a marker in the API, and
// decides nothing about leadership beyond choosing a term.
package storage
