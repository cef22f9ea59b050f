// Package daemon starts the lab's processes, finds them again and ends them.
//
// A daemon outlives the command that started it: it leads a session of its own, its log
// is a file, and a record of its process says which one it is, so that a reused process
// id is never taken for it. A daemon whose record is missing or damaged, because the
// command was killed or somebody cleaned the folder, is found again by its command line.
// Starting a running daemon does nothing. Nothing is restarted: what was killed stays
// dead until it is started again.
package daemon

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// Set is the pair of folders that the daemons of one lab share.
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
	// CgroupProcs is the cgroup.procs file of the cgroup in which it starts; empty: the caller's.
	CgroupProcs string
}

// cmdline is the command line as /proc shows it.
func (d Daemon) cmdline() string {
	return strings.Join(append([]string{d.Path}, d.Args...), "\x00") + "\x00"
}

// record identifies a process for as long as the machine runs.
type record struct {
	PID int `json:"pid"`
	// Started is the time of its start, in clock ticks since boot.
	Started string `json:"started"`
	// LogStart is the size that the log had then, in bytes.
	LogStart int64 `json:"logStart"`
}

// Start runs d unless it runs already, and reports whether it did. The children that are
// left of a daemon that died are killed first.
func (s Set) Start(d Daemon) (bool, error) {
	running, err := s.Adopt(d)
	if err != nil || running {
		return false, err
	}
	if err := s.Kill(d.Name); err != nil {
		return false, err
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
	size, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return false, fmt.Errorf("start %s: %w", d.Name, err)
	}
	argv := append([]string{d.Path}, d.Args...)
	if d.NetNS != "" {
		// Not `ip netns exec`: that remounts /sys and hides cgroup v1.
		argv = append([]string{"nsenter", "--net=" + d.NetNS, "--"}, argv...)
	}
	if d.CgroupProcs != "" {
		// Before the program is read: its pages count where they are first used.
		argv = append([]string{"sh", "-c", `echo $$ > "$0" && exec "$@"`, d.CgroupProcs}, argv...)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = d.Dir, append(os.Environ(), d.Env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return false, fmt.Errorf("start %s: %w", d.Name, err)
	}
	pid := cmd.Process.Pid
	if err := s.write(d.Name, pid, size); err != nil {
		return false, errors.Join(fmt.Errorf("record %s: %w", d.Name, err), cmd.Process.Kill(), cmd.Wait())
	}
	// Reaps the child if it ends before this command does.
	go cmd.Wait() //nolint:errcheck // its end is seen by PID
	return true, nil
}

// PID returns the process of a running daemon.
func (s Set) PID(name string) (int, bool) {
	r, err := s.read(name)
	if err != nil {
		return 0, false
	}
	p, err := readProcess(r.PID)
	if err != nil || p.started != r.Started || p.ended() {
		return 0, false
	}
	return r.PID, true
}

// Stale reports whether the daemon runs, but with a program that was replaced since it
// started, or with another command line than d's.
func (s Set) Stale(d Daemon) bool {
	pid, running := s.PID(d.Name)
	if !running {
		return false
	}
	program, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err == nil && strings.HasSuffix(program, " (deleted)") {
		return true
	}
	// A daemon that was started a moment ago may still be nsenter, followed by its own.
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && len(cmdline) > 0 && !strings.HasSuffix(string(cmdline), d.cmdline())
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
// and forgets it. A damaged record names no process; it is removed.
func (s Set) Kill(name string) error {
	r, err := s.read(name)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case errors.Is(err, errDamaged):
		return os.Remove(s.recordFile(name))
	case err != nil:
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
