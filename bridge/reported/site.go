package reported

import (
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// maxObsolete is the number of obsolete messages of a site above which no more of its messages
// are read.
const maxObsolete = 20_000

// siteState is how far the reports of one site have been read and dealt with. It does no I/O and
// is safe for concurrent use; one worker at a time reads.
type siteState struct {
	name string
	// stream is the site's stream, created its time of creation, generation that of the table
	// when it was opened.
	stream     jetstream.Stream
	created    time.Time
	generation uint64

	mu sync.Mutex
	// cursor is the last sequence that was read.
	cursor uint64
	// incomplete are the reports whose parts are awaited, in order.
	incomplete []uint64
	// obsolete are the messages that can be removed when they are below the floor.
	obsolete []uint64
	floor    floor
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

// discard schedules the removal of a message.
func (s *siteState) discard(seq uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.obsolete = append(s.obsolete, seq)
}

// removable removes and returns up to n obsolete messages that are below the floor. The last
// message of the site stays, because its forwarder looks it up.
func (s *siteState) removable(n int) (seqs []uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.obsolete = slices.DeleteFunc(s.obsolete, func(seq uint64) bool {
		remove := len(seqs) < n && seq <= s.floor.seq && seq < s.cursor
		if remove {
			seqs = append(seqs, seq)
		}
		return remove
	})
	return seqs
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
		slices.ContainsFunc(s.obsolete, func(seq uint64) bool { return seq <= s.floor.seq && seq < s.cursor })
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
