// Package replicate keeps SITE_DESIRED, the site's copy of its desired state, equal to what the hub
// has for the site.
//
// It guarantees that a delivery is acknowledged to the hub only when it is on disk, that deliveries
// are stored in the hub's order and none is left out, and that an object that was deleted does not
// come back with an older version. What has been lost at either end is found by the position, and
// what differs otherwise by comparing inventories with the bridge. It never decides what the site
// should have. The leaf calls it.
package replicate
