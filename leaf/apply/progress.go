package apply

import (
	"sync"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/streams"
)

// progress is the position up to which SITE_DESIRED has been applied.
type progress struct {
	mu sync.Mutex
	// applied is the position in SITE_DESIRED, source the same position in DESIRED.
	applied, source uint64
	// waiting holds the sequences of messages that are delivered again, with their positions
	// in DESIRED.
	waiting map[uint64]uint64
	// unreadable holds the sequences of messages that could not be read.
	unreadable  map[uint64]struct{}
	quarantined uint64
}

func (p *progress) markApplied(seq, source uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.waiting, seq)
	if seq >= p.applied {
		p.applied, p.source = seq, source
	}
}

func (p *progress) markWaiting(seq, source uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting[seq] = source
}

func (p *progress) markUnreadable(seq uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unreadable[seq] = struct{}{}
}

func (p *progress) countQuarantined() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.quarantined++
}

// Position returns the sequence of SITE_DESIRED up to which every message has been applied, 0
// before the first, and the same position as a sequence of the hub's stream DESIRED, 0 if it
// is unknown.
func (a *Applier) Position() (seq, source uint64) {
	p := &a.progress
	p.mu.Lock()
	defer p.mu.Unlock()
	seq, source = p.applied, p.source
	for waiting, waitingSource := range p.waiting {
		seq, source = min(seq, waiting-1), min(source, max(waitingSource, 1)-1)
	}
	return seq, source
}

// Unreadable returns the number of messages that could not be read since the start, including
// those that are still in SITE_DESIRED and that an earlier process quarantined.
func (a *Applier) Unreadable() uint64 {
	a.progress.mu.Lock()
	defer a.progress.mu.Unlock()
	return uint64(len(a.progress.unreadable))
}

// Quarantined returns the number of messages that were stored in SITE_QUARANTINE since the
// start.
func (a *Applier) Quarantined() uint64 {
	a.progress.mu.Lock()
	defer a.progress.mu.Unlock()
	return a.progress.quarantined
}

// sourceOf returns the sequence in DESIRED of a message of SITE_DESIRED, 0 if it has none.
func sourceOf(msg jetstream.Msg) uint64 {
	source, err := streams.ParseHubPosition(msg.Headers().Get(streams.HeaderSource))
	if err != nil {
		return 0
	}
	return source.Seq
}
