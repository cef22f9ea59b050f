package dmi

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// mapperInfo is what is kept of a mapper's registration.
type mapperInfo struct {
	Name     string `json:"name"`
	Version  string `json:"version,omitempty"`
	Protocol string `json:"protocol"`
	Address  string `json:"address"`
}

// record is what is kept of a device that a mapper was told of.
type record struct {
	UID      string `json:"uid,omitempty"`
	Protocol string `json:"protocol"`
	Model    string `json:"model,omitempty"`
	// Has is the digest of what the mapper has of the device: hasUnknown, hasNothing or
	// that of a bundle.
	Has string `json:"has,omitempty"`
	// Told are the desired values that the mapper was told, by property.
	Told map[string]told `json:"told,omitempty"`
}

const (
	hasUnknown = ""
	hasNothing = "nothing"
)

// told is a value that a mapper was told to write.
type told struct {
	Value string `json:"value"`
	// Time is when, in milliseconds since 1970.
	Time int64 `json:"time"`
	// Confirmed tells that the mapper has reported the value since.
	Confirmed bool `json:"confirmed,omitempty"`
	// Command tells that it is one of a command, which is never recorded.
	Command bool `json:"-"`
}

func (r record) clone() record {
	r.Told = maps.Clone(r.Told)
	return r
}

// kept is the content of the state file.
type kept struct {
	Mappers map[string]mapperInfo `json:"mappers"` // by protocol in lower case
	Devices map[string]record     `json:"devices"` // by namespace/name
}

// errStore reports that the state file cannot be written.
var errStore = errors.New("save state of mappers")

// store keeps what must survive a restart in one file.
type store struct {
	path string

	mu    sync.Mutex
	kept  kept
	dirty bool
}

func newStore(path string) *store {
	return &store{path: path, kept: kept{Mappers: map[string]mapperInfo{}, Devices: map[string]record{}}}
}

// load reads the file. A file that cannot be read leaves the store empty.
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
	var k kept
	if err := json.Unmarshal(b, &k); err != nil {
		return fmt.Errorf("decode state of mappers: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.Copy(s.kept.Mappers, k.Mappers)
	maps.Copy(s.kept.Devices, k.Devices)
	return nil
}

func (s *store) mappers() []mapperInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]mapperInfo, 0, len(s.kept.Mappers))
	for _, m := range s.kept.Mappers {
		list = append(list, m)
	}
	return list
}

func (s *store) devices() map[string]record {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[string]record, len(s.kept.Devices))
	for k, r := range s.kept.Devices {
		all[k] = r.clone()
	}
	return all
}

func (s *store) device(key string) (record, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.kept.Devices[key]
	return r.clone(), ok
}

// usesModel tells whether a device of the namespace uses a model at a mapper.
func (s *store) usesModel(protocol, namespace, model string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, r := range s.kept.Devices {
		if r.Model == model && strings.EqualFold(r.Protocol, protocol) && strings.HasPrefix(k, namespace+"/") {
			return true
		}
	}
	return false
}

// note changes a device's record; it is saved with the next one that is saved.
func (s *store) note(key string, change func(*record)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.kept.Devices[key].clone()
	change(&r)
	s.kept.Devices[key] = r
	s.dirty = true
}

// save changes a device's record and returns after it would survive a power cut.
func (s *store) save(key string, change func(*record)) error {
	s.note(key, change)
	return s.flush()
}

// drop forgets a device; that is saved with the next record that is.
func (s *store) drop(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.kept.Devices, key)
	s.dirty = true
}

// register saves a mapper's registration.
func (s *store) register(m mapperInfo) error {
	s.mu.Lock()
	s.kept.Mappers[strings.ToLower(m.Protocol)] = m
	s.dirty = true
	s.mu.Unlock()
	return s.flush()
}

// flush saves what is not saved yet.
func (s *store) flush() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.path == "" || !s.dirty {
		return nil
	}
	b, err := json.Marshal(s.kept)
	if err != nil {
		return fmt.Errorf("encode state of mappers: %w", err)
	}
	if err := replaceFile(s.path, b); err != nil {
		return fmt.Errorf("%w: %w", errStore, err)
	}
	s.dirty = false
	return nil
}

// replaceFile writes a file so that after a power cut it is the old or the new one.
func replaceFile(path string, b []byte) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
