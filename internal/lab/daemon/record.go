package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/petiole-io/petiole/internal/durable"
)

// errDamaged reports a record that names no process.
var errDamaged = errors.New("damaged record")

// Ended reports whether the daemon was started and has ended since, without being
// stopped.
func (s Set) Ended(name string) bool {
	if _, running := s.PID(name); running {
		return false
	}
	_, err := s.read(name)
	return err == nil
}

// Adopt reports whether d runs. A running daemon without a valid record, found by its
// command line, gets one.
func (s Set) Adopt(d Daemon) (running bool, err error) {
	if _, running := s.PID(d.Name); running {
		return true, nil
	}
	pid, found := leaderOf(d.cmdline())
	if !found {
		return false, nil
	}
	if err := os.MkdirAll(s.RunDir, 0o755); err != nil {
		return false, fmt.Errorf("adopt %s: %w", d.Name, err)
	}
	if err := s.write(d.Name, pid, 0); err != nil {
		return false, fmt.Errorf("adopt %s: %w", d.Name, err)
	}
	return true, nil
}

func (s Set) recordFile(name string) string { return filepath.Join(s.RunDir, name+".json") }

// write records the process. A command that is killed meanwhile leaves the old record or
// the new one.
func (s Set) write(name string, pid int, logStart int64) error {
	p, err := readProcess(pid)
	if err != nil {
		return err
	}
	data, err := json.Marshal(record{PID: pid, Started: p.started, LogStart: logStart})
	if err != nil {
		return err
	}
	return durable.WriteFileNoSync(s.recordFile(name), data, 0o644)
}

func (s Set) read(name string) (record, error) {
	data, err := os.ReadFile(s.recordFile(name))
	if err != nil {
		return record{}, err
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return record{}, fmt.Errorf("%w %s: %w", errDamaged, s.recordFile(name), err)
	}
	if r.PID <= 0 {
		return record{}, fmt.Errorf("%w %s: pid %d", errDamaged, s.recordFile(name), r.PID)
	}
	return r, nil
}
