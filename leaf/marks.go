package leaf

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
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
	// Incomplete: the stream was made anew, and what it should hold has not arrived yet.
	Incomplete bool `json:"incomplete,omitempty"`
}

// marks is that file. A mark that is older than the truth does no harm, so it is not
// synced. It is safe for concurrent use.
type marks struct {
	path string

	mu     sync.Mutex
	byName map[string]mark
}

// openMarks reads the file. What cannot be read, such as one that a power cut tore, is
// taken for empty.
func openMarks(dataDir string) *marks {
	m := &marks{path: filepath.Join(dataDir, MarksName), byName: map[string]mark{}}
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
	if m.byName[stream] == k {
		return nil
	}
	m.byName[stream] = k
	data, err := json.Marshal(m.byName)
	if err != nil {
		return fmt.Errorf("encode marks: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(m.path), 0o700); err != nil {
		return fmt.Errorf("write marks: %w", err)
	}
	next := m.path + ".next"
	if err := os.WriteFile(next, data, 0o600); err != nil {
		return fmt.Errorf("write marks: %w", err)
	}
	if err := os.Rename(next, m.path); err != nil {
		return fmt.Errorf("write marks: %w", err)
	}
	return nil
}

// lost says whether a stream that ends at last is less than what was seen of it.
func (k mark) lost(created time.Time, last uint64) bool {
	return k.Last > 0 && (k.Created != created.UnixNano() || last < k.Last)
}
