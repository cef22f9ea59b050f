// Package orphans marks the Nodes of deleted Sites, and deletes them after a delay.
//
// Guarantees: a Node is marked as soon as its Site is gone: nothing new is scheduled to it, it is
// not ready, and an Event says why. It is deleted only if its Site has been absent for the whole
// delay, during which the API had other Sites, and is absent at the API server at the end. A Node
// that no site has ever reported is left alone, whatever its labels. A Site that exists again in
// time has its Nodes back, with their pods.
//
// The bridge has one Controller while it leads.
package orphans
