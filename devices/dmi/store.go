package dmi

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"strings"
	"sync"

	"github.com/petiole-io/petiole/devices/dmi/convert"
	"github.com/petiole-io/petiole/internal/durable"
)

// mapperInfo is the saved registration of a mapper.
type mapperInfo struct {
	Name     string `json:"name"`
	Version  string `json:"version,omitempty"`
	Protocol string `json:"protocol"`
	Address  string `json:"address"`
}

// record is the saved state of a device that was sent to a mapper.
type record struct {
	UID      string `json:"uid,omitempty"`
	Protocol string `json:"protocol"`
	Model    string `json:"model,omitempty"`
	// Has is what the mapper has of the device: hasUnknown, hasNothing or the digest of a
	// bundle.
	Has string `json:"has,omitempty"`
	// Sent are the desired values that were sent to the mapper, by property.
	Sent map[string]convert.SentValue `json:"told,omitempty"`
}

const (
	hasUnknown = ""
	hasNothing = "nothing"
)

func (r record) clone() record {
	r.Sent = maps.Clone(r.Sent)
	return r
}

// stateFile is the content of the state file.
type stateFile struct {
	Mappers map[string]mapperInfo `json:"mappers"` // by protocol in lower case
	Devices map[string]record     `json:"devices"` // by namespace/name
}

// errStore reports that the state file cannot be written.
var errStore = errors.New("save state of mappers")

// store keeps mappers and devices across restarts, in one file.
type store struct {
	path string

	mu    sync.Mutex
	state stateFile
	dirty bool
}

func newStore(path string) *store {
	return &store{path: path, state: stateFile{Mappers: map[string]mapperInfo{}, Devices: map[string]record{}}}
}

// load reads the file. If that fails the store is empty.
func (s *store) load() error {
	if s.path == "" {
		return nil
	}
	b, err := os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read state of mappers: %w", err)
	}
	var k stateFile
	if err := json.Unmarshal(b, &k); err != nil {
		return fmt.Errorf("decode state of mappers: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.Copy(s.state.Mappers, k.Mappers)
	maps.Copy(s.state.Devices, k.Devices)
	return nil
}

func (s *store) mappers() []mapperInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]mapperInfo, 0, len(s.state.Mappers))
	for _, m := range s.state.Mappers {
		list = append(list, m)
	}
	return list
}

func (s *store) devices() map[string]record {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[string]record, len(s.state.Devices))
	for k, r := range s.state.Devices {
		all[k] = r.clone()
	}
	return all
}

func (s *store) device(key string) (record, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.state.Devices[key]
	return r.clone(), ok
}

// usesModel reports whether a device of the namespace uses a model at a mapper.
func (s *store) usesModel(protocol, namespace, model string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, r := range s.state.Devices {
		if r.Model == model && strings.EqualFold(r.Protocol, protocol) && strings.HasPrefix(k, namespace+"/") {
			return true
		}
	}
	return false
}

// update changes a device's record. The next flush saves it.
func (s *store) update(key string, change func(*record)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.state.Devices[key].clone()
	change(&r)
	s.state.Devices[key] = r
	s.dirty = true
}

// save changes a device's record and returns after it is safe from a power cut.
func (s *store) save(key string, change func(*record)) error {
	s.update(key, change)
	return s.flush()
}

// drop deletes the record of a device. The next flush saves that.
func (s *store) drop(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.state.Devices, key)
	s.dirty = true
}

// register saves a mapper's registration.
func (s *store) register(m mapperInfo) error {
	s.mu.Lock()
	s.state.Mappers[strings.ToLower(m.Protocol)] = m
	s.dirty = true
	s.mu.Unlock()
	return s.flush()
}

// flush saves changes that are not saved yet.
func (s *store) flush() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.path == "" || !s.dirty {
		return nil
	}
	b, err := json.Marshal(s.state)
	if err != nil {
		return fmt.Errorf("encode state of mappers: %w", err)
	}
	if err := durable.WriteFile(s.path, b, 0o600); err != nil {
		return fmt.Errorf("%w: %w", errStore, err)
	}
	s.dirty = false
	return nil
}
