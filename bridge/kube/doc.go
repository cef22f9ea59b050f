// Package kube is the bridge's access to the API server: clients of its own and clients that
// impersonate a node, an informer cache of the resources that the bridge watches, and the keys
// of their objects.
//
// Guarantees: every write, except those of the leader election, passes the transport that the
// caller provides, so that a bridge that may not write does not. An object is in the cache as
// an API server served it from its storage, without managedFields; a list is never answered
// from an API server's own cache.
//
// The bridge and its other rooms use it. It knows nothing of sites, streams and leadership
// beyond the form of a subject's reference (streams.Ref), and it makes no decision about an
// object.
package kube
