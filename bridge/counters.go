package bridge

import (
	"sync/atomic"

	"github.com/petiole-io/petiole/bridge/antientropy"
	"github.com/petiole-io/petiole/bridge/desired"
	"github.com/petiole-io/petiole/bridge/reported"
)

// counters count events that are not worth a log line.
type counters struct {
	tokens, refused atomic.Uint64
	resyncs, epochs atomic.Uint64
	siteRounds      atomic.Uint64
	desired         desired.Counters
	reported        reported.Counters
	antientropy     antientropy.Counters
}

// Counters is a snapshot of what a bridge has done since New.
type Counters struct {
	// Published and Tombstones count messages stored in DESIRED.
	Published, Tombstones uint64
	// Accepted counts the reports that the API server accepted, Dropped those about objects
	// that were deleted or replaced, Quarantined those that were unreadable or refused,
	// UnknownSite those of sites without a Site object.
	Accepted, Dropped, Quarantined, UnknownSite uint64
	// Tokens counts the service account tokens issued, Refused the requests that were unknown,
	// too large or too many.
	Tokens, Refused uint64
	// Checks counts the inventory queries answered, Mismatches those that found a difference,
	// Resyncs the full resyncs of sites.
	Checks, Mismatches, Resyncs uint64
	// Epochs counts the new epochs that this bridge has started, ExternalWrites the messages
	// of other bridges that it found in DESIRED.
	Epochs, ExternalWrites uint64
	// Deferred counts the reports that were deferred because too many of their site waited for
	// the API server.
	Deferred uint64
	// Conflicts counts the writes that the API server rejected because the object had changed.
	// They are retried.
	Conflicts uint64
	// SiteRounds counts the rounds of the site controller, which also delete acknowledged
	// tombstones. GCRounds counts the rounds that remove obsolete reports.
	SiteRounds, GCRounds uint64
}

func (c *counters) snapshot() Counters {
	return Counters{
		Published: c.desired.Published.Load(), Tombstones: c.desired.Tombstones.Load(),
		Accepted: c.reported.Accepted.Load(), Dropped: c.reported.Dropped.Load(),
		Quarantined: c.reported.Quarantined.Load(), UnknownSite: c.reported.UnknownSite.Load(),
		Tokens: c.tokens.Load(), Refused: c.refused.Load(),
		Checks: c.antientropy.Checks.Load(), Mismatches: c.antientropy.Mismatches.Load(), Resyncs: c.resyncs.Load(),
		Epochs: c.epochs.Load(), ExternalWrites: c.desired.ExternalWrites.Load(), Deferred: c.reported.Deferred.Load(), Conflicts: c.reported.Conflicts.Load(),
		SiteRounds: c.siteRounds.Load(), GCRounds: c.reported.GCRounds.Load(),
	}
}
