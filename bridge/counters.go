package bridge

import "sync/atomic"

// counters count what is not worth a log line.
type counters struct {
	published, tombstones    atomic.Uint64
	accepted, dropped        atomic.Uint64
	quarantined, unknownSite atomic.Uint64
	tokens, refused          atomic.Uint64
	checks, mismatches       atomic.Uint64
	resyncs, epochs          atomic.Uint64
	externalWrites, deferred atomic.Uint64
	conflicts                atomic.Uint64
	siteRounds, gcRounds     atomic.Uint64
}

// Counters is a snapshot of what a bridge has done since it started.
type Counters struct {
	// Published and Tombstones count messages stored in DESIRED.
	Published, Tombstones uint64
	// Accepted counts reports that the API server took over; Dropped those about
	// objects that are gone or were replaced; Quarantined those that were unreadable
	// or refused; Strays those of sites without a Site object.
	Accepted, Dropped, Quarantined, UnknownSite uint64
	// Tokens counts service account tokens handed out; Refused the requests of sites
	// that were unknown, too large or too many.
	Tokens, Refused uint64
	// Checks counts the manifest queries answered, Mismatches those that found a
	// difference, Resyncs the sites that were told to take everything anew.
	Checks, Mismatches, Resyncs uint64
	// Epochs counts the new epochs that this bridge has begun, Foreign the messages of
	// other bridges that it found in DESIRED.
	Epochs, ExternalWrites uint64
	// Deferred counts the reports that were put back because too many of their site
	// waited for the API server.
	Deferred uint64
	// Conflicts counts the writes that the API server refused because the object had
	// been changed; they are made again.
	Conflicts uint64
	// Surveys counts the rounds in which the position of every site was read and the
	// tombstones that it has passed were removed, Trims those in which reports that nobody
	// needs were.
	SiteRounds, GCRounds uint64
}

func (c *counters) snapshot() Counters {
	return Counters{
		Published: c.published.Load(), Tombstones: c.tombstones.Load(),
		Accepted: c.accepted.Load(), Dropped: c.dropped.Load(),
		Quarantined: c.quarantined.Load(), UnknownSite: c.unknownSite.Load(),
		Tokens: c.tokens.Load(), Refused: c.refused.Load(),
		Checks: c.checks.Load(), Mismatches: c.mismatches.Load(), Resyncs: c.resyncs.Load(),
		Epochs: c.epochs.Load(), ExternalWrites: c.externalWrites.Load(), Deferred: c.deferred.Load(), Conflicts: c.conflicts.Load(),
		SiteRounds: c.siteRounds.Load(), GCRounds: c.gcRounds.Load(),
	}
}
