// Package desired makes the hub's stream DESIRED equal to what each site needs: it publishes the
// objects of the API server that a site needs, and tombstones for what it no longer needs.
//
// It guarantees that a bridge that does not lead changes nothing: each write names the message
// that it expects on its subject, and is preceded by a check of the fence and of the API server's
// storage. What another bridge wrote is found and checked again. A site gets what a pod needs
// before the pod. The bridge starts it; the Site controller and the comparisons with the sites
// ask it what a site should have.
package desired
