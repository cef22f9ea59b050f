// Package objects holds the objects of a site's node API in memory. It computes each of them
// from the desired state, the last messages of SITE_DESIRED, and the local state, the last
// message of SITE_REPORTED. It gives every change a resource version and passes it to the
// watchers.
//
// Guarantees: a desired message never replaces a newer one; an object that a caller got never
// changes; a watcher misses no change, or is told that it did (ErrExpired).
//
// The node API calls it. One lock guards the store, and is held for computing only, never for
// I/O. With the lock held, the store calls the functions that are passed to StartHistory and
// Each: they must neither block nor call the store. A caller may hold locks of its own while
// it calls the store.
//
// It reads no stream, serves no request and writes no file.
package objects
