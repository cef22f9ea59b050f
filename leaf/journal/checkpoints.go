package journal

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/petiole-io/petiole/internal/durable"
	"github.com/petiole-io/petiole/streams"
)

// checkpointsName is the file in the data folder that holds the checkpoint of each stream.
const checkpointsName = "streams.json"

// progressInterval is the time between two writes of nothing but progress: each replaces the file,
// which costs a small flash memory more than it is worth.
const progressInterval = 10 * time.Second

// Checkpoint is the last known state of a stream. A stream that holds less was rolled back,
// truncated or created again without the leaf.
type Checkpoint struct {
	Created int64  `json:"created"`
	Last    uint64 `json:"last"`
	// Digest is the inventory digest of SITE_DESIRED at the sequence Last, or empty if unknown.
	Digest string `json:"digest,omitempty"`
	// Timeline is the timeline of the stream at the sequence Last.
	Timeline string `json:"claims,omitempty"`
	// Incomplete is set after the stream was created again, until its content has arrived.
	Incomplete bool `json:"incomplete,omitempty"`
	// Lost are the losses that have not been reported yet.
	Lost []LostRange `json:"lost,omitempty"`
	// LostAt is when the stream of the device state was found to hold less than before, in ns
	// since 1970.
	LostAt int64 `json:"forgot,omitempty"`
}

// LostRange is a range of sequences, both included, of the stream that was created at Created.
type LostRange struct {
	Created int64 `json:"created"`
	Range
}

// unresolved reports whether the checkpoint records damage that has not been repaired or
// reported yet.
func (cp Checkpoint) unresolved() bool { return cp.Incomplete || cp.LostAt != 0 || len(cp.Lost) > 0 }

// progressOnly reports whether next is later in the same stream, and nothing else.
func (cp Checkpoint) progressOnly(next Checkpoint) bool {
	cp.Last, cp.Digest, next.Last, next.Digest = 0, "", 0, ""
	return cp.Created != 0 && reflect.DeepEqual(cp, next)
}

// Checkpoints is the checkpoint file. Losing a checkpoint or an update is harmless unless one is
// unresolved; in that case Put syncs the file before it returns. Progress is written every 10 s, and
// by Flush. Use OpenCheckpoints. It is safe
// for concurrent use.
type Checkpoints struct {
	path string
	// write replaces the file and waits for the disk if sync is set.
	write func(path string, data []byte, sync bool) error

	mu     sync.Mutex
	byName map[string]Checkpoint
	// unwritten is set while the file is out of date because it could not be written, behind while
	// it lacks nothing but progress.
	unwritten, behind bool
	written           time.Time
}

// OpenCheckpoints reads the file. A file that cannot be read, for example one that a power cut
// truncated, counts as empty.
func OpenCheckpoints(dataDir string) *Checkpoints {
	m := &Checkpoints{path: filepath.Join(dataDir, checkpointsName), write: writeCheckpoints, byName: map[string]Checkpoint{}}
	data, err := os.ReadFile(m.path)
	if err == nil {
		err = json.Unmarshal(data, &m.byName)
	}
	if err != nil || m.byName == nil {
		m.byName = map[string]Checkpoint{}
	}
	return m
}

// Get returns the checkpoint of a stream, and false if there is none.
func (m *Checkpoints) Get(stream string) (Checkpoint, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	cp, ok := m.byName[stream]
	return cp, ok
}

// Put saves a checkpoint if it has changed.
func (m *Checkpoints) Put(stream string, cp Checkpoint) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	was := m.byName[stream]
	sync := m.needsSync()
	m.byName[stream] = cp
	sync = sync || m.needsSync()
	m.behind = m.behind || !reflect.DeepEqual(was, cp)
	if !m.unwritten && (!m.behind || !sync && was.progressOnly(cp) && time.Since(m.written) < progressInterval) {
		return nil
	}
	return m.save(sync)
}

// Flush writes what Put has not written yet.
func (m *Checkpoints) Flush() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.behind && !m.unwritten {
		return nil
	}
	return m.save(m.needsSync())
}

// save replaces the file. The lock is held.
func (m *Checkpoints) save(sync bool) error {
	data, err := json.Marshal(m.byName)
	if err != nil {
		return fmt.Errorf("encode checkpoints: %w", err)
	}
	if err := m.write(m.path, data, sync); err != nil {
		m.unwritten = true
		return fmt.Errorf("write checkpoints: %w", err)
	}
	m.unwritten, m.behind, m.written = false, false, time.Now()
	return nil
}

// needsSync reports whether any checkpoint is unresolved. The lock is held.
func (m *Checkpoints) needsSync() bool {
	if m.unwritten {
		return true
	}
	for _, cp := range m.byName {
		if cp.unresolved() {
			return true
		}
	}
	return false
}

// writeCheckpoints replaces the file and waits for the disk if sync is set.
func writeCheckpoints(path string, data []byte, sync bool) error {
	if sync {
		return durable.WriteFile(path, data, 0o600)
	}
	return durable.WriteFileNoSync(path, data, 0o600)
}

// LostBy reports whether a stream with this creation time and last sequence holds less than the
// checkpoint.
func (cp Checkpoint) LostBy(created time.Time, last uint64) bool {
	return cp.Last > 0 && (cp.Created != created.UnixNano() || last < cp.Last)
}

// timeline returns the timeline of the stream at the checkpoint.
func (cp Checkpoint) timeline() Timeline {
	l, err := parseTimeline(cp.Timeline, time.Unix(0, cp.Created))
	if err != nil {
		return Timeline{{id: cp.Created}}
	}
	return l
}

// End returns the position of the last sequence at the checkpoint.
func (cp Checkpoint) End() streams.SitePosition { return cp.timeline().Position(cp.Last) }

// LostSince returns the range that existed at the checkpoint, is missing in the timeline l, and
// had not been forwarded. Sequences of incarnations that started after the checkpoint are not
// what was there.
func (cp Checkpoint) LostSince(l Timeline, noted streams.SitePosition) (LostRange, bool) {
	then := cp.timeline()
	kept := uint64(math.MaxUint64)
	for i, c := range l[1:] {
		if (cp.Timeline != "" || i == len(l)-2) && !slices.ContainsFunc(then, func(o incarnation) bool { return o.id == c.id }) {
			kept = min(kept, max(c.from, 1)-1)
		}
	}
	forwarded, _ := then.LastCommon(noted) // 0: of another life of the stream
	if kept >= cp.Last || forwarded >= cp.Last {
		return LostRange{}, false
	}
	return LostRange{cp.Created, Range{max(kept, forwarded) + 1, cp.Last}}, true
}
