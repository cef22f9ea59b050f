// Package lease elects the one bridge that may write, and enforces it. The election is
// client-go's, on a Lease of the API server. The fence rejects writes as soon as this bridge
// may have lost the lease, or has seen the term of a later leader.
//
// Guarantees: two bridges never both pass the fence as long as their clocks run at about the
// same rate. A bridge that stops releases the lease after its work has ended. Another takes over
// from one that died within Config.Takeover.
//
// The bridge uses it. It does not choose terms: it only compares them.
package lease
