package check

import "time"

// Kind is the kind of an event. It determines which fields are set.
type Kind string

const (
	// Wrote means that the API server accepted a version of an object. Object, UID, Counter.
	Wrote Kind = "wrote"
	// Unsure means that a write ended without an answer: it may have happened, now or never.
	Unsure Kind = "unsure"
	// Deleted means that the API server accepted the deletion of an object. Object, UID.
	Deleted Kind = "deleted"
	// Restored means that the API server's storage was replaced by an older one. Counter is the
	// highest that was given out before; Objects has the counter of every object that is
	// there now, by UID.
	Restored Kind = "restored"

	// Seen means that a site's node API shows an object. Site, Object, UID, Counter, Owner, Digest;
	// Listed when it was part of a list rather than a watch event, Loose when it may go
	// and come back because it is there for another object only.
	Seen Kind = "seen"
	// Gone means that a site's node API no longer shows an object. Site, Object, UID.
	Gone Kind = "gone"
	// StoreLost means that something of a site's disk is not what the leaf had stored. Site, What,
	// Stream, and for a rolled back disk Since, the time of the copy.
	StoreLost Kind = "store-lost"

	// Acked means that the leaf acknowledged a telemetry record. Site, Source, N, Seq.
	Acked Kind = "acked"
	// Refused means that the leaf answered a record, or a report, with an error. Site, Source.
	Refused Kind = "refused"
	// Arrived means that the hub's stream holds a telemetry record. Site, Source, N.
	Arrived Kind = "arrived"
	// GapReported means that a gap record arrived at the hub. Site, Stream, From, To, What: its reason.
	GapReported Kind = "gap-reported"

	// Reported means that the node API acknowledged a status of a pod. Site, Object, UID, N, Phase.
	Reported Kind = "reported"
	// Status means that the API server shows a status of a pod. Site, Object, UID, About, N, Phase,
	// Restarts.
	Status Kind = "status"
	// Renewed means that the API server shows that a node's lease was renewed. Site.
	Renewed Kind = "renewed"
	// Unreachable means that nothing that the site sends can arrive at the hub. Site.
	Unreachable Kind = "unreachable"
	// Reachable means the end of it. Site.
	Reachable Kind = "reachable"

	// Published means that the hub's stream DESIRED holds a message. Site, Subject, Op, UID,
	// Version, Epoch, Term, Seq, Stream (its identity).
	Published Kind = "published"
	// BridgeWrote means that a bridge's request to change something was accepted by the API server.
	// Bridge, Subject (the path), Term, Since (when it was sent).
	BridgeWrote Kind = "bridge-wrote"

	// Poisoned means that a message was put where no such message may be. Site, Subject.
	Poisoned Kind = "poisoned"
	// Quarantined means that such a message was found in quarantine. Site, Subject.
	Quarantined Kind = "quarantined"

	// Runs means that a pod that nobody deletes runs in a container. Site, Object, UID, Digest (the
	// container's id).
	Runs Kind = "runs"

	// Fault means that something was broken. What, Site or Target.
	Fault Kind = "fault"
	// Healed means that it is in order again. What, Site or Target.
	Healed Kind = "healed"
	// Crashed means that a process ended that nobody had ended. Target.
	Crashed Kind = "crashed"
	// Converged means that a site holds what the API wants, Took after the last fault was healed.
	Converged Kind = "converged"
	// Diverged means that it does not hold that in time. Site, What.
	Diverged Kind = "diverged"
	// Carried means that a line of the rate What, which nothing else was wrong with, was up for
	// Took and carried Bytes to the site. N messages were pending for the site; it had acknowledged
	// up to From before, to To after. Site.
	Carried Kind = "carried"
)

// Event is one line of a history. At and Since count from the start of the run.
type Event struct {
	At   time.Duration `json:"at"`
	Kind Kind          `json:"kind"`

	Site    string `json:"site,omitempty"`
	Object  string `json:"object,omitempty"`
	UID     string `json:"uid,omitempty"`
	Counter int64  `json:"counter,omitempty"`
	Owner   string `json:"owner,omitempty"`
	Digest  string `json:"digest,omitempty"`
	Listed  bool   `json:"listed,omitempty"`
	Loose   bool   `json:"loose,omitempty"`

	Source   string `json:"source,omitempty"`
	N        int64  `json:"n,omitempty"`
	Phase    string `json:"phase,omitempty"`
	About    string `json:"about,omitempty"`
	Restarts int64  `json:"restarts,omitempty"`

	Subject string `json:"subject,omitempty"`
	Stream  string `json:"stream,omitempty"`
	Op      string `json:"op,omitempty"`
	Version string `json:"version,omitempty"`
	Epoch   string `json:"epoch,omitempty"`
	Term    int64  `json:"term,omitempty"`
	Seq     uint64 `json:"seq,omitempty"`
	From    uint64 `json:"from,omitempty"`
	To      uint64 `json:"to,omitempty"`
	Bytes   int64  `json:"bytes,omitempty"`

	Bridge string        `json:"bridge,omitempty"`
	Target string        `json:"target,omitempty"`
	What   string        `json:"what,omitempty"`
	Since  time.Duration `json:"since,omitempty"`
	Took   time.Duration `json:"took,omitempty"`

	Objects map[string]int64 `json:"objects,omitempty"`
}

// Violation is a promise that was broken.
type Violation struct {
	At        time.Duration `json:"at"`
	Invariant string        `json:"invariant"`
	What      string        `json:"what"`
}

// checker judges one event after the other.
type checker interface {
	// observe returns what the event violates, as invariant and explanation.
	observe(Event) []Violation
	// finish returns the violations by events that did not happen.
	finish() []Violation
}

// Judge is all checkers together. The zero value is not ready: see NewJudge.
type Judge struct {
	checkers []checker
	last     time.Duration
}

// NewJudge returns a judge that has seen nothing.
func NewJudge() *Judge {
	return &Judge{checkers: []checker{newOrder(), newUpstream(), newReports(), newLeases(), newFencing(), newPoison(), autonomy{}, ends{}}}
}

// Observe processes the next event.
func (j *Judge) Observe(e Event) []Violation {
	j.last = e.At
	var all []Violation
	for _, c := range j.checkers {
		for _, v := range c.observe(e) {
			v.At = e.At
			all = append(all, v)
		}
	}
	return all
}

// Finish returns what is missing. The system must have come to rest.
func (j *Judge) Finish() []Violation {
	var all []Violation
	for _, c := range j.checkers {
		for _, v := range c.finish() {
			v.At = j.last
			all = append(all, v)
		}
	}
	return all
}

// ends reports the violations that others have found: processes that crashed, sites that do not
// converge, and slow lines that carry nothing.
type ends struct{}

func (ends) observe(e Event) []Violation {
	switch e.Kind {
	case Crashed:
		return violation("I34", "%s ended although nobody ended it: %s", e.Target, e.What)
	case Diverged:
		return violation("I2", "%s does not hold what the API wants: %s", e.Site, e.What)
	case Carried:
		if e.N > 0 && e.To <= e.From {
			return violation("I37", "of %d messages for %s, a line of %s carried none in %s and %d bytes", e.N, e.Site, e.What, e.Took, e.Bytes)
		}
	}
	return nil
}

func (ends) finish() []Violation { return nil }
