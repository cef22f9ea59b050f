// Package reported has the newest report of each site about each object written to the API
// server, and written again if something else overwrote it.
//
// Guarantees: the bridge's bucket has, for each site, the sequence up to which all of its reports
// are dealt with: the API server has accepted or finally refused them, or they are in QUARANTINE.
// It never passes a report of which that is not true, so the next bridge reads that report again.
// What is removed from a site's stream is below it, and the state of an object that exists is never
// removed. A state that was superseded is not written if a hub that was killed brings it back. A
// site has a bounded share of what all sites use: of reports that wait, of memory, and of the
// workers. Those that read serve one site after the other for a bounded number of messages; those
// that write take one report of each site in turn, and a site has at most half of them.
//
// The bridge runs one Reconciler while it leads, and tells it what changes. What a report
// becomes in the API is up to the Writer.
package reported
