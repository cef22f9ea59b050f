package leaf

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

// DropLogName is the file in the data folder that counts dropped records.
const DropLogName = "dropped.json"

// position is a sequence together with the incarnation that assigned it (timeline). Sequences of
// different incarnations are not comparable.
type position struct {
	Incarnation int64  `json:"claim"`
	Seq         uint64 `json:"seq"`
}

// streamDrops is the entry of one stream.
type streamDrops struct {
	// Forwarded is the position up to which every message was forwarded or counted as dropped.
	// It is written when a session ends, so it may lag behind.
	Forwarded position `json:"noted"`
	// Counted is the last position that was counted as dropped.
	Counted position `json:"counted"`
	// Dropped is the number of dropped records by reason (streams.GapLimit, streams.GapLost).
	Dropped map[string]uint64 `json:"dropped,omitempty"`
}

// dropLog counts the records that were dropped before the hub had them, in a file that survives
// restarts. It is safe for concurrent use.
type dropLog struct {
	path string

	mu       sync.Mutex
	byStream map[string]*streamDrops
}

// openDropLog reads the file in a data folder. If it cannot be read, counting starts at zero and
// the error is returned as well.
func openDropLog(dataDir string) (*dropLog, error) {
	l := &dropLog{path: filepath.Join(dataDir, DropLogName), byStream: map[string]*streamDrops{}}
	data, err := os.ReadFile(l.path)
	if errors.Is(err, os.ErrNotExist) {
		return l, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &l.byStream)
	}
	if err != nil {
		l.byStream = map[string]*streamDrops{}
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
func (l *dropLog) entry(stream string) *streamDrops {
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

// forwarded returns the position up to which a stream is known to be forwarded or counted.
func (l *dropLog) forwarded(stream string) position {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.entry(stream).Forwarded
}

// countDropped counts a range of sequences as dropped and returns when that is on disk. Calling
// it again with the same sequences does not count them twice.
func (l *dropLog) countDropped(stream string, of timeline, reason string, s seqRange) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.entry(stream)
	if counted, ok := of.lastCommon(a.Counted); ok {
		s.from = max(s.from, counted+1)
	}
	if s.from > s.to {
		return nil
	}
	a.Counted = of.position(s.to)
	a.Dropped[reason] += s.count()
	return l.save()
}

// countLost counts records that were lost together with the store.
func (l *dropLog) countLost(stream string, n uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entry(stream).Dropped[streams.GapLost] += n
	return l.save()
}

// setForwarded saves the position up to which a stream was forwarded or counted.
func (l *dropLog) setForwarded(stream string, at position) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a := l.entry(stream); a.Forwarded != at {
		a.Forwarded = at
		return l.save()
	}
	return nil
}

// each calls f with every counter.
func (l *dropLog) each(f func(stream, reason string, n uint64)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, a := range l.byStream {
		for reason, n := range a.Dropped {
			f(name, reason, n)
		}
	}
}

// total returns the number of records that were dropped since the file was created.
func (l *dropLog) total() (n uint64) {
	l.each(func(_, _ string, m uint64) { n += m })
	return n
}

// save replaces the file and returns when it is on disk.
func (l *dropLog) save() error {
	data, err := json.Marshal(l.byStream)
	if err == nil {
		err = durable.WriteFile(l.path, data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("write the counts of dropped records: %w", err)
	}
	return nil
}
