package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/petiole-io/petiole/internal/durable"
	"github.com/petiole-io/petiole/streams"
)

// dropLogName is the file in the data folder that counts dropped records.
const dropLogName = "dropped.json"

// earlierIncarnations is the number of earlier incarnations whose position is kept. Each start of the
// leaf is one.
const earlierIncarnations = 32

// Range is a range of sequences, both included.
type Range struct {
	From uint64 `json:"from"`
	To   uint64 `json:"to"`
}

// Count returns the number of sequences.
func (s Range) Count() uint64 { return s.To - s.From + 1 }

// streamDrops is the entry of one stream.
type streamDrops struct {
	// Forwarded is the position up to which every message was forwarded or counted as dropped.
	// It is written every few seconds and when a session ends, so it may lag behind.
	Forwarded streams.SitePosition `json:"noted"`
	// Earlier are the last such positions of earlier incarnations, newest first, for a store that
	// is put back.
	Earlier []streams.SitePosition `json:"earlier,omitempty"`
	// Counted is the last position that was counted as dropped.
	Counted streams.SitePosition `json:"counted"`
	// Lost is the end of the last range that was counted as lost with the store.
	Lost streams.SitePosition `json:"lost,omitzero"`
	// EventsWait is the position of the first Event that was passed over because of the site's budget.
	EventsWait streams.SitePosition `json:"eventsWait,omitzero"`
	// Dropped is the number of dropped records by reason (streams.GapLimit, streams.GapLost).
	Dropped map[string]uint64 `json:"dropped,omitempty"`
}

// DropLog counts the records that were dropped before the hub had them, in a file that survives
// restarts. Use OpenDropLog. It is safe for concurrent use.
type DropLog struct {
	path string

	mu       sync.Mutex
	byStream map[string]*streamDrops
}

// OpenDropLog reads the file in a data folder. If it cannot be read, counting starts at zero and
// the error is returned as well.
func OpenDropLog(dataDir string) (*DropLog, error) {
	l := &DropLog{path: filepath.Join(dataDir, dropLogName), byStream: map[string]*streamDrops{}}
	data, err := os.ReadFile(l.path)
	if errors.Is(err, os.ErrNotExist) {
		return l, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &l.byStream)
	}
	if err != nil {
		// Whether Events wait is not known: all of them are sent again.
		l.byStream = map[string]*streamDrops{streams.SiteReported: {EventsWait: streams.SitePosition{Seq: 1}}}
		return l, fmt.Errorf("read the counts of dropped records: %w", err)
	}
	for name, a := range l.byStream {
		if a == nil {
			delete(l.byStream, name)
		}
	}
	return l, nil
}

// entry returns the entry of a stream. The lock is held.
func (l *DropLog) entry(stream string) *streamDrops {
	a := l.byStream[stream]
	if a == nil {
		a = &streamDrops{}
		l.byStream[stream] = a
	}
	if a.Dropped == nil {
		a.Dropped = map[string]uint64{}
	}
	return a
}

// Forwarded returns the position up to which a stream is known to be forwarded or counted.
func (l *DropLog) Forwarded(stream string) streams.SitePosition {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.entry(stream).Forwarded
}

// LastForwarded returns the sequence of a stream with this timeline up to which it is known to be
// forwarded or counted, and false if nothing is known about this stream or its ancestors.
func (l *DropLog) LastForwarded(stream string, of Timeline) (uint64, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entry(stream)
	for _, at := range append([]streams.SitePosition{e.Forwarded}, e.Earlier...) {
		if seq, ok := of.LastCommon(at); ok {
			return seq, true
		}
	}
	return 0, false
}

// CountDropped counts a range of sequences as dropped and returns when that is on disk. Calling
// it again with the same sequences does not count them twice.
func (l *DropLog) CountDropped(stream string, of Timeline, reason string, s Range) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.entry(stream)
	if counted, ok := of.LastCommon(a.Counted); ok {
		s.From = max(s.From, counted+1)
	}
	if s.From > s.To {
		return nil
	}
	a.Counted = of.Position(s.To)
	a.Dropped[reason] += s.Count()
	return l.save()
}

// CountLost counts n records that were lost together with the store, up to a position, and returns
// when that is on disk. Calling it again with the same position does not count them twice: the
// caller's own record of the loss may be older, after a crash.
func (l *DropLog) CountLost(stream string, end streams.SitePosition, n uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.entry(stream)
	if a.Lost == end {
		return nil
	}
	a.Lost = end
	a.Dropped[streams.GapLost] += n
	return l.save()
}

// SetForwarded saves the position up to which a stream was forwarded or counted.
func (l *DropLog) SetForwarded(stream string, at streams.SitePosition) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.entry(stream)
	if a.Forwarded == at {
		return nil
	}
	if was := a.Forwarded; was.Incarnation != at.Incarnation && was.Seq > 0 {
		a.Earlier = append([]streams.SitePosition{was}, a.Earlier...)
		a.Earlier = a.Earlier[:min(len(a.Earlier), earlierIncarnations)]
	}
	a.Forwarded = at
	return l.save()
}

// EventsWait reports whether Events of a stream were passed over and not stored again.
func (l *DropLog) EventsWait(stream string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.entry(stream).EventsWait != streams.SitePosition{}
}

// FirstWaitingEvent returns the sequence from which on Events of a stream wait. If that is not known
// for a stream with this timeline, it is 1.
func (l *DropLog) FirstWaitingEvent(stream string, of Timeline) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	seq, ok := of.LastCommon(l.entry(stream).EventsWait)
	if !ok {
		return 1
	}
	return max(seq, 1)
}

// SetEventsWait notes that an Event was passed over, and returns when that is on disk. It reports
// whether it is the first one.
func (l *DropLog) SetEventsWait(stream string, of Timeline, seq uint64) (begins bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.entry(stream)
	was := a.EventsWait
	if begins = was == (streams.SitePosition{}); !begins {
		if first, ok := of.LastCommon(was); !ok || first <= seq {
			return false, nil
		}
	}
	a.EventsWait = of.Position(seq)
	if err := l.save(); err != nil {
		a.EventsWait = was
		return false, err
	}
	return begins, nil
}

// ClearEventsWait notes that no Event waits any more.
func (l *DropLog) ClearEventsWait(stream string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entry(stream).EventsWait = streams.SitePosition{}
	return l.save()
}

// Each calls f with every counter.
func (l *DropLog) Each(f func(stream, reason string, n uint64)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, a := range l.byStream {
		for reason, n := range a.Dropped {
			f(name, reason, n)
		}
	}
}

// Total returns the number of records that were dropped since the file was created.
func (l *DropLog) Total() (n uint64) {
	l.Each(func(_, _ string, m uint64) { n += m })
	return n
}

// save replaces the file and returns when it is on disk.
func (l *DropLog) save() error {
	data, err := json.Marshal(l.byStream)
	if err == nil {
		err = durable.WriteFile(l.path, data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("write the counts of dropped records: %w", err)
	}
	return nil
}
