// Package liveness knows which sites are connected and which nodes are alive: it receives the
// sites' heartbeats, renews the node leases of live nodes, detects two leaves that use the name
// of one site, and sets the tolerations that keep Kubernetes from evicting the pods of
// disconnected sites.
//
// Guarantees: a node's lease is renewed only while its site is connected and its own kubelet
// renews its lease at the site. A site without a heartbeat for streams.PresenceTimeout is
// disconnected. What a site can make it remember is bounded.
//
// The bridge uses it, and tells it which Sites exist. It never writes the status of a node or
// a Site.
package liveness
