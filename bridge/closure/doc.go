// Package closure computes which objects of the API server each site needs. It is pure: it
// reads no API, starts nothing, and keeps only what its caller tells it.
//
// Guarantees: a site needs what its nodes and the pods and devices bound to them refer to, and
// what the Node authorizer lets those nodes read, and nothing of another site's. An object that
// a site needs may not exist yet. A change of an object's content alone affects no site's
// closure.
//
// Package desired uses it and serializes the calls.
package closure
