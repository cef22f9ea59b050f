// Package daemon starts the lab's processes, finds them again and ends them.
//
// A daemon outlives the command that started it: it leads a session of its own, its log
// is a file, and a record of its process says which one it is, so that a reused process
// id is never taken for it. Starting a running daemon does nothing. Nothing is
// restarted: what was killed stays dead until it is started again.
package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Set is the folder pair that daemons of one lab share.
type Set struct{ RunDir, LogDir string }

// Daemon is one process.
type Daemon struct {
	// Name is unique in the set.
	Name string
	Path string
	Args []string
	// Env is added to the caller's environment.
	Env []string
	// NetNS is the file of the network namespace it runs in; empty: the caller's.
	NetNS string
	// Dir is its working folder; empty: the caller's.
	Dir string
}

// record identifies a process for as long as the machine runs.
type record struct {
	PID int `json:"pid"`
	// Started is when it started, in clock ticks since boot.
	Started string `json:"started"`
}

// Start runs d unless it runs already. It reports whether it started it now.
func (s Set) Start(d Daemon) (bool, error) {
	if _, running := s.PID(d.Name); running {
		return false, nil
	}
	for _, dir := range []string{s.RunDir, s.LogDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return false, fmt.Errorf("start %s: %w", d.Name, err)
		}
	}
	log, err := os.OpenFile(s.LogFile(d.Name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return false, fmt.Errorf("start %s: %w", d.Name, err)
	}
	defer log.Close()
	argv := append([]string{d.Path}, d.Args...)
	if d.NetNS != "" {
		// Not `ip netns exec`: that remounts /sys and hides cgroup v1.
		argv = append([]string{"nsenter", "--net=" + d.NetNS, "--"}, argv...)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = d.Dir, append(os.Environ(), d.Env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return false, fmt.Errorf("start %s: %w", d.Name, err)
	}
	pid := cmd.Process.Pid
	if err := s.write(d.Name, pid); err != nil {
		return false, errors.Join(fmt.Errorf("record %s: %w", d.Name, err), cmd.Process.Kill(), cmd.Wait())
	}
	// Reaps the child if it ends before this command does.
	go cmd.Wait() //nolint:errcheck // its end is seen by PID
	return true, nil
}

// LogFile is where the daemon's output goes.
func (s Set) LogFile(name string) string { return filepath.Join(s.LogDir, name+".log") }

// PID returns the process of a running daemon.
func (s Set) PID(name string) (int, bool) {
	r, err := s.read(name)
	if err != nil {
		return 0, false
	}
	p, err := readProcess(r.PID)
	if err != nil || p.started != r.Started || p.state == "Z" {
		return 0, false
	}
	return r.PID, true
}

// Stale reports whether the daemon runs a program that was replaced since.
func (s Set) Stale(name string) bool {
	pid, running := s.PID(name)
	if !running {
		return false
	}
	program, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return err == nil && strings.HasSuffix(program, " (deleted)")
}

// Stop asks the daemon to end, kills it and what is left of its session after grace,
// and forgets it. A daemon that does not run is no error.
func (s Set) Stop(name string, grace time.Duration) error {
	pid, running := s.PID(name)
	if running {
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("stop %s: %w", name, err)
		}
		await(grace, func() bool { _, running := s.PID(name); return !running })
	}
	return s.Kill(name)
}

// Kill ends the daemon and every process of its session at once, as a power cut does,
// and forgets it.
func (s Set) Kill(name string) error {
	r, err := s.read(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("kill %s: %w", name, err)
	}
	if err := KillAll(func() []int { return session(r) }); err != nil {
		return fmt.Errorf("kill %s: %w", name, err)
	}
	if err := os.Remove(s.recordFile(name)); err != nil {
		return fmt.Errorf("kill %s: %w", name, err)
	}
	return nil
}

func (s Set) recordFile(name string) string { return filepath.Join(s.RunDir, name+".json") }

func (s Set) write(name string, pid int) error {
	p, err := readProcess(pid)
	if err != nil {
		return err
	}
	data, err := json.Marshal(record{PID: pid, Started: p.started})
	if err != nil {
		return err
	}
	return os.WriteFile(s.recordFile(name), data, 0o644)
}

func (s Set) read(name string) (record, error) {
	data, err := os.ReadFile(s.recordFile(name))
	if err != nil {
		return record{}, err
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return record{}, fmt.Errorf("decode %s: %w", s.recordFile(name), err)
	}
	return r, nil
}
