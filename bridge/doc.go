// Package bridge is the cloud side of Petiole: it watches the API server, publishes to
// each site what that site needs, and writes the sites' reports back to the API server.
//
// Guarantees: a site receives its reference closure and nothing else. An object is
// published only when its content changes. What is no longer needed is replaced by a
// tombstone, even if it was deleted while no bridge was running. A report is removed only
// after the API server has accepted or finally refused it. The node leases of a
// disconnected site are not renewed. Each site's inventory is compared with what was
// published, and differences are repaired. Several bridges may run, one is active; late
// writes of a former leader are rejected. A restored or replaced API server starts a new
// epoch.
//
// cmd/bridge and the lab use it. It never imports leaf, runs no NATS server, and keeps no
// state of its own outside the API server and the hub's streams.
package bridge
