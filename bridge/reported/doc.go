// Package reported has the newest report of REPORTED about each object written to the API
// server, and written again if something else overwrote it.
//
// Guarantees: a message is acknowledged after the API server has accepted or finally refused
// it, after it is in QUARANTINE, or after the bridge's bucket records that it must be read again.
// The state of an object that exists is never removed from REPORTED. A site has a bounded share
// of what all sites use: of unacknowledged messages, of reports that wait, of memory.
//
// The bridge runs one Reconciler while it leads, and tells it what changes. What a report
// becomes in the API is up to the Writer.
package reported
