package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// clockTicks is USER_HZ, which is 100 on every Linux architecture that Go supports.
const clockTicks = 100

// Process is a running process: its id and the time of its start, which distinguishes it from a
// later one with the same id.
type Process struct {
	PID     int
	Started time.Time
	// ticks since boot at the start: exact, where Started follows a clock that is set.
	ticks int64
}

// Same reports whether both are the same run.
func (p Process) Same(q Process) bool { return p.PID == q.PID && p.ticks == q.ticks }

// FindProcess reads /proc. A zombie counts as gone.
func FindProcess(pid int) (Process, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Process{}, fmt.Errorf("find process %d: %w", pid, os.ErrProcessDone)
	}
	// The name, in parentheses, may hold spaces.
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return Process{}, fmt.Errorf("find process %d: %w", pid, os.ErrProcessDone)
	}
	ticks, err := strconv.ParseInt(fields[19], 10, 64)
	if err != nil {
		return Process{}, fmt.Errorf("read start time of process %d: %w", pid, err)
	}
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return Process{}, fmt.Errorf("read uptime: %w", err)
	}
	age := time.Duration(up.Nano()) - time.Duration(ticks)*time.Second/clockTicks
	return Process{PID: pid, Started: time.Now().Add(-age), ticks: ticks}, nil
}

// Kill sends SIGKILL and returns when the process is gone.
func (p Process) Kill(ctx context.Context) error {
	if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("kill process %d: %w", p.PID, err)
	}
	return Poll(ctx, fmt.Sprintf("process %d is gone", p.PID), func(context.Context) error {
		now, err := FindProcess(p.PID)
		if errors.Is(err, os.ErrProcessDone) || err == nil && !now.Same(p) {
			return nil
		}
		return fmt.Errorf("still there (%w)", err)
	})
}

// Children returns the direct child processes whose command line has every word.
func (p Process) Children(words ...string) ([]Process, error) {
	entries, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	var found []Process
	for _, e := range entries {
		data, err := os.ReadFile(e)
		if err != nil {
			continue // it ended meanwhile
		}
		fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
		if len(fields) < 2 || fields[1] != strconv.Itoa(p.PID) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(e)))
		if err != nil || !hasWords(CommandLine(pid), words) {
			continue
		}
		if child, err := FindProcess(pid); err == nil {
			found = append(found, child)
		}
	}
	return found, nil
}

// CommandLine returns the arguments of a process, empty if it has ended.
func CommandLine(pid int) []string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimRight(string(data), "\x00"), "\x00")
}

// Memory is the memory of a process, in bytes.
type Memory struct{ Anonymous, RSS, PSS int64 }

// Add returns the sum of both.
func (m Memory) Add(n Memory) Memory {
	return Memory{m.Anonymous + n.Anonymous, m.RSS + n.RSS, m.PSS + n.PSS}
}

// Memory reads /proc/<pid>/smaps_rollup.
func (p Process) Memory() (Memory, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p.PID))
	if err != nil {
		return Memory{}, fmt.Errorf("read memory of process %d: %w", p.PID, err)
	}
	var m Memory
	for name, value := range map[string]*int64{"Anonymous:": &m.Anonymous, "Rss:": &m.RSS, "Pss:": &m.PSS} {
		for line := range strings.Lines(string(data)) {
			f := strings.Fields(line)
			if len(f) < 2 || f[0] != name {
				continue
			}
			kib, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				return Memory{}, fmt.Errorf("read memory of process %d: %w", p.PID, err)
			}
			*value = kib << 10
		}
	}
	return m, nil
}

func hasWords(args, words []string) bool {
	line := " " + strings.Join(args, " ") + " "
	for _, w := range words {
		if !strings.Contains(line, w) {
			return false
		}
	}
	return true
}
