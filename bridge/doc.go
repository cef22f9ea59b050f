// Package bridge is the cloud side of Petiole: it watches the API server, publishes to
// each site what that site needs, and writes back what is true there.
//
// Guarantees: a site receives its reference closure and nothing else; an object is
// published only when its content changed; what is no longer needed is taken away by a
// tombstone, also when it vanished while no bridge was running; a report is
// forgotten only after the API server has accepted or finally refused it; a silent
// site's leases are not renewed. What a site has is compared with what was published,
// and repaired. Any number of bridges may run, one acts; what a former one writes late
// is refused. A restored or replaced API server begins a new epoch.
//
// cmd/bridge and the lab call it. It never imports leaf, runs no NATS server, and keeps
// no state of its own: the API server and the hub's streams are its memory.
package bridge
