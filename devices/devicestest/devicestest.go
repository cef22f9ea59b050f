// Package devicestest has what the tests of the packages below devices share: a State in
// memory, and how they run. Nothing outside tests may import it.
package devicestest

import (
	"context"
	"flag"
	"maps"
	"runtime"
	"strconv"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"sigs.k8s.io/yaml"

	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// Main runs the tests of a package, four parallel ones per processor: they wait rather than
// compute. It fails if they leave goroutines behind.
func Main(m *testing.M) {
	flag.Parse()
	if parallel := flag.Lookup("test.parallel"); parallel.Value.String() == parallel.DefValue {
		if err := parallel.Value.Set(strconv.Itoa(4 * runtime.GOMAXPROCS(0))); err != nil {
			panic(err)
		}
	}
	goleak.VerifyTestMain(m)
}

// Parse parses a Device and its DeviceModel.
func Parse(t testing.TB, device, model string) (*v1beta1.Device, *v1beta1.DeviceModel) {
	t.Helper()
	d, m := &v1beta1.Device{}, &v1beta1.DeviceModel{}
	if err := yaml.UnmarshalStrict([]byte(device), d); err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict([]byte(model), m); err != nil {
		t.Fatal(err)
	}
	return d, m
}

// State is a devices.State in memory, which outlives the host that uses it. The zero State is
// empty.
type State struct {
	mu     sync.Mutex
	values map[string][]byte
	fail   error
}

// Load returns the value of a key.
func (s *State) Load(_ context.Context, key string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.values[key], s.fail
}

// Save sets the value of a key, unless it fails.
func (s *State) Save(_ context.Context, key string, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return s.fail
	}
	if s.values == nil {
		s.values = map[string][]byte{}
	}
	s.values[key] = value
	return nil
}

// Delete deletes a key, also if it fails.
func (s *State) Delete(_ context.Context, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.values, key)
	return s.fail
}

// SetFail makes all calls fail with err, until it is called with nil.
func (s *State) SetFail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = err
}

// Snapshot returns a copy of what is saved.
func (s *State) Snapshot() map[string][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.values)
}

// Restore replaces what is saved.
func (s *State) Restore(values map[string][]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.values = maps.Clone(values)
}
