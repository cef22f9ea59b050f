package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a process as /proc shows it.
type process struct {
	pid, session   int
	state, started string
	threads        int
}

// ended reports whether nothing of p runs. The process whose first thread has ended is a zombie, but as
// long as others have not, as after a SIGKILL on a busy machine, it holds its files and ports.
func (p process) ended() bool { return p.state == "Z" && p.threads <= 1 }

// since reports whether p is not older than started: a session id that was reused by
// an older process cannot be.
func (p process) since(started string) bool {
	a, errA := strconv.ParseUint(p.started, 10, 64)
	b, errB := strconv.ParseUint(started, 10, 64)
	return errA == nil && errB == nil && a >= b
}

// killTimeout bounds the time that the kernel takes to end a killed process.
const killTimeout = 10 * time.Second

// KillAll kills the processes that find returns, looks again for those that appeared
// meanwhile, and returns when there are none.
func KillAll(find func() []int) error {
	var left []int
	gone := await(killTimeout, func() bool {
		left = find()
		for _, pid := range left {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return false
			}
		}
		return len(left) == 0
	})
	if !gone {
		return fmt.Errorf("processes %v still run after SIGKILL", left)
	}
	return nil
}

// session lists the live processes of the session that leader started.
func session(leader record) []int {
	var pids []int
	for _, p := range processes() {
		if p.session == leader.PID && !p.ended() && p.since(leader.Started) {
			pids = append(pids, p.pid)
		}
	}
	return pids
}

// leaderOf finds the process with this command line that leads a session, as a daemon
// does. Processes of other PID namespaces, which may be those of another lab in a box,
// are left alone.
func leaderOf(want string) (int, bool) {
	here, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return 0, false
	}
	for _, p := range processes() {
		if p.session != p.pid || p.ended() {
			continue
		}
		cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid))
		if err != nil || string(cmdline) != want {
			continue
		}
		if ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", p.pid)); err == nil && ns == here {
			return p.pid, true
		}
	}
	return 0, false
}

func processes() []process {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil // the pattern is constant
	}
	var found []process
	for _, d := range dirs {
		pid, err := strconv.Atoi(filepath.Base(d))
		if err != nil {
			continue
		}
		if p, err := readProcess(pid); err == nil {
			found = append(found, p)
		}
	}
	return found
}

// readProcess parses /proc/<pid>/stat (proc(5)): the command in parentheses may hold
// anything, so fields are counted from its end.
func readProcess(pid int) (process, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, err
	}
	i := strings.LastIndexByte(string(data), ')')
	fields := strings.Fields(string(data[i+1:]))
	if i < 0 || len(fields) < 20 {
		return process{}, fmt.Errorf("stat of process %d has %d fields", pid, len(fields))
	}
	session, err := strconv.Atoi(fields[3])
	if err != nil {
		return process{}, err
	}
	threads, err := strconv.Atoi(fields[17])
	if err != nil {
		return process{}, err
	}
	return process{pid: pid, session: session, state: fields[0], started: fields[19], threads: threads}, nil
}

func await(timeout time.Duration, cond func() bool) bool {
	for deadline := time.Now().Add(timeout); ; time.Sleep(20 * time.Millisecond) {
		if cond() {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
	}
}
