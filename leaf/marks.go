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
const MarksName = "streams.json"

// mark is what was seen of a stream. A stream that has less was rolled back, cut off or
// made anew behind the leaf's back.
type mark struct {
	Created int64  `json:"created"`
	Last    uint64 `json:"last"`
	// Digest is the manifest's of SITE_DESIRED when Last was its last sequence, empty
	// when it is not known.
	Digest string `json:"digest,omitempty"`
	// Claims is the stream's lineage when Last was its last sequence.
	Claims string `json:"claims,omitempty"`
	// Incomplete: the stream was made anew, and what it should hold has not arrived yet.
	Incomplete bool `json:"incomplete,omitempty"`
	// Lost is what was lost, as long as no record of it is stored.
	Lost []loss `json:"lost,omitempty"`
	// Forgot is when the stream was found to have less than it had, ns since 1970. It is
	// kept of the device worker's memory only.
	Forgot int64 `json:"forgot,omitempty"`
}

// loss are sequences of a stream that was made at Created.
type loss struct {
	Created int64  `json:"created"`
	From    uint64 `json:"from"`
	To      uint64 `json:"to"`
}

// grave says whether a mark says more than how far a stream had come.
func (k mark) grave() bool { return k.Incomplete || k.Forgot != 0 || len(k.Lost) > 0 }

// marks is that file. That a mark is older than the truth, or forgotten, does no harm as
// long as none is grave; what is or was grave is on disk when put returns. It is safe for
// concurrent use.
type marks struct {
	path string
	// write replaces the file, and returns when that is on disk if sync is set.
	write func(path string, data []byte, sync bool) error

	mu     sync.Mutex
	byName map[string]mark
	// unwritten: the file has something else.
	unwritten bool
}

// openMarks reads the file. What cannot be read, such as one that a power cut tore, is
// taken for empty.
func openMarks(dataDir string) *marks {
	m := &marks{path: filepath.Join(dataDir, MarksName), write: rename, byName: map[string]mark{}}
	data, err := os.ReadFile(m.path)
	if err == nil {
		err = json.Unmarshal(data, &m.byName)
	}
	if err != nil || m.byName == nil {
		m.byName = map[string]mark{}
	}
	return m
}

func (m *marks) get(stream string) (mark, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k, ok := m.byName[stream]
	return k, ok
}

// put writes a mark down if it is another one.
func (m *marks) put(stream string, k mark) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if reflect.DeepEqual(m.byName[stream], k) && !m.unwritten {
		return nil
	}
	sync := m.grave()
	m.byName[stream] = k
	sync = sync || m.grave()
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
func (m *marks) grave() bool {
	if m.unwritten {
		return true
	}
	for _, k := range m.byName {
		if k.grave() {
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
func (k mark) lost(created time.Time, last uint64) bool {
	return k.Last > 0 && (k.Created != created.UnixNano() || last < k.Last)
}
