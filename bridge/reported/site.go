package reported

import (
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/table"
)

// maxObsolete is the number of obsolete messages of a site above which no more of its messages
// are read.
const maxObsolete = 20_000

// obsolete is a message that can be removed. holdsStates is set if its subject is that of an
// object whose states are kept.
type obsolete struct {
	seq         uint64
	holdsStates bool
}

// obsoleteMessage returns a message of a stream as one that can be removed.
func obsoleteMessage(d *table.Message) obsolete {
	_, ref, err := streams.ParseReported(d.Subject)
	return obsolete{d.Seq, err == nil && holdsStates(ref)}
}

// siteState is how far the reports of one site have been read and dealt with. It does no I/O and
// is safe for concurrent use; one worker at a time reads.
type siteState struct {
	name string
	// stream is the site's stream, created its time of creation, generation that of the table
	// when it was opened.
	stream     jetstream.Stream
	created    time.Time
	generation uint64
	// live is used by the worker that reads.
	live liveSet

	mu sync.Mutex
	// cursor is the last sequence that was read.
	cursor uint64
	// incomplete are the reports whose parts are awaited, in order.
	incomplete []uint64
	// obsolete are the messages that can be removed when they are below the floor.
	obsolete []obsolete
	floor    floor
	// unwritten are the reports that stay in the stream and are not written: the API server has
	// refused them, or when the stream was opened there was no room for them or a part was missing.
	unwritten map[streams.Ref]uint64
	// full is true while too many reports wait for more to be read.
	full bool
	// partsDue is when the parts are to be checked, zero if there are none.
	partsDue time.Time
}

// position returns the last sequence that was read and the incomplete reports.
func (s *siteState) position() (cursor uint64, incomplete []uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cursor, slices.Clone(s.incomplete)
}

// advance notes that a message was read. One whose parts are awaited is read again.
func (s *siteState) advance(seq uint64, incomplete bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.incomplete = slices.DeleteFunc(s.incomplete, func(n uint64) bool { return n == seq }); incomplete {
		s.incomplete = append(s.incomplete, seq)
	}
	s.cursor = max(s.cursor, seq)
}

// room returns how many more messages may be read if so many more reports can wait.
func (s *siteState) room(waiting int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := min(waiting-len(s.incomplete), maxObsolete-len(s.obsolete))
	s.full = n <= 0
	return n
}

// resume reports whether reading stopped for lack of room and there is room again.
func (s *siteState) resume(waiting int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.full && waiting-len(s.incomplete) > maxWaiting/2 && len(s.obsolete) < maxObsolete
}

// discard schedules the removal of messages.
func (s *siteState) discard(messages ...obsolete) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.obsolete = append(s.obsolete, messages...)
}

// retain takes note that the report about an object stays although it is not written.
func (s *siteState) retain(ref streams.Ref, seq uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unwritten == nil {
		s.unwritten = map[streams.Ref]uint64{}
	}
	s.unwritten[ref] = seq
}

// supersede takes note of a newer report about an object.
func (s *siteState) supersede(ref streams.Ref) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.unwritten, ref)
}

// retained returns the sequences up to last of the reports that stay and are not written. It
// forgets those about objects that do not exist.
func (s *siteState) retained(last uint64, exists func(streams.Ref) bool) (seqs []uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ref, seq := range s.unwritten {
		switch {
		case !exists(ref):
			delete(s.unwritten, ref)
		case seq <= last:
			seqs = append(seqs, seq)
		}
	}
	return seqs
}

// removable removes and returns up to n obsolete messages that are below the floor. The last
// message of the site stays, because its forwarder looks it up.
func (s *siteState) removable(n int) (messages []obsolete) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.obsolete = slices.DeleteFunc(s.obsolete, func(o obsolete) bool {
		remove := len(messages) < n && o.seq <= s.floor.seq && o.seq < s.cursor
		if remove {
			messages = append(messages, o)
		}
		return remove
	})
	return messages
}

// storedFloor returns the sequence of the floor that the bucket has.
func (s *siteState) storedFloor() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.floor.seq
}

// dealtWith returns the sequence up to which all messages are dealt with, if the first report that
// waits for the API server, 0 for none, is known.
func (s *siteState) dealtWith(firstWaiting uint64) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.cursor
	if firstWaiting > 0 {
		n = min(n, firstWaiting-1)
	}
	for _, seq := range s.incomplete {
		n = min(n, seq-1)
	}
	return n
}

// work reports whether there is something to do besides reading what is new.
func (s *siteState) work(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.incomplete) > 0 || s.full || !s.partsDue.IsZero() && !now.Before(s.partsDue) ||
		slices.ContainsFunc(s.obsolete, func(o obsolete) bool { return o.seq <= s.floor.seq && o.seq < s.cursor })
}

// checkParts schedules a check of the parts.
func (s *siteState) checkParts(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.partsDue.IsZero() || at.Before(s.partsDue) {
		s.partsDue = at
	}
}

// partsAreDue reports whether the parts are to be checked now, and cancels the check.
func (s *siteState) partsAreDue(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	due := !s.partsDue.IsZero() && !now.Before(s.partsDue)
	if due {
		s.partsDue = time.Time{}
	}
	return due
}
