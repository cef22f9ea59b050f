package leaf

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"time"
)

// MarksName is the file of the data folder that remembers how far each stream had come.
const CheckpointsName = "streams.json"

// mark is what was seen of a stream. A stream that has less was rolled back, cut off or
// made anew behind the leaf's back.
type checkpoint struct {
	Created int64  `json:"created"`
	Last    uint64 `json:"last"`
	// Digest is the manifest's of SITE_DESIRED when Last was its last sequence, empty
	// when it is not known.
	Digest string `json:"digest,omitempty"`
	// Claims is the stream's lineage when Last was its last sequence.
	Timeline string `json:"claims,omitempty"`
	// Incomplete: the stream was made anew, and what it should hold has not arrived yet.
	Incomplete bool `json:"incomplete,omitempty"`
	// Lost is what was lost, as long as no record of it is stored.
	Lost []lostRange `json:"lost,omitempty"`
	// Forgot is when the stream was found to have less than it had, ns since 1970. It is
	// kept of the device worker's memory only.
	LostAt int64 `json:"forgot,omitempty"`
}

// loss are sequences of a stream that was made at Created.
type lostRange struct {
	Created int64  `json:"created"`
	From    uint64 `json:"from"`
	To      uint64 `json:"to"`
}

// grave says whether a mark says more than how far a stream had come.
func (k checkpoint) unresolved() bool { return k.Incomplete || k.LostAt != 0 || len(k.Lost) > 0 }

// marks is that file. That a mark is older than the truth, or forgotten, does no harm as
// long as none is grave; what is or was grave is on disk when put returns. It is safe for
// concurrent use.
type checkpoints struct {
	path string
	// write replaces the file, and returns when that is on disk if sync is set.
	write func(path string, data []byte, sync bool) error

	mu     sync.Mutex
	byName map[string]checkpoint
	// unwritten: the file has something else.
	unwritten bool
}

// openMarks reads the file. What cannot be read, such as one that a power cut tore, is
// taken for empty.
func openCheckpoints(dataDir string) *checkpoints {
	m := &checkpoints{path: filepath.Join(dataDir, CheckpointsName), write: rename, byName: map[string]checkpoint{}}
	data, err := os.ReadFile(m.path)
	if err == nil {
		err = json.Unmarshal(data, &m.byName)
	}
	if err != nil || m.byName == nil {
		m.byName = map[string]checkpoint{}
	}
	return m
}

func (m *checkpoints) get(stream string) (checkpoint, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k, ok := m.byName[stream]
	return k, ok
}

// put writes a mark down if it is another one.
func (m *checkpoints) put(stream string, k checkpoint) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if reflect.DeepEqual(m.byName[stream], k) && !m.unwritten {
		return nil
	}
	sync := m.needsSync()
	m.byName[stream] = k
	sync = sync || m.needsSync()
	data, err := json.Marshal(m.byName)
	if err != nil {
		return fmt.Errorf("encode marks: %w", err)
	}
	if err := m.write(m.path, data, sync); err != nil {
		m.unwritten = true
		return fmt.Errorf("write marks: %w", err)
	}
	m.unwritten = false
	return nil
}

// grave says whether any mark is. The lock is held.
func (m *checkpoints) needsSync() bool {
	if m.unwritten {
		return true
	}
	for _, k := range m.byName {
		if k.unresolved() {
			return true
		}
	}
	return false
}

// rename writes data beside the file and puts it in its place, some time on disk.
func rename(path string, data []byte, sync bool) error {
	if sync {
		return replaceFile(path, data)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	next := path + ".next"
	if err := os.WriteFile(next, data, 0o600); err != nil {
		return err
	}
	return os.Rename(next, path)
}

// lost says whether a stream that ends at last is less than what was seen of it.
func (k checkpoint) lostBy(created time.Time, last uint64) bool {
	return k.Last > 0 && (k.Created != created.UnixNano() || last < k.Last)
}
