package world

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/petiole-io/petiole/internal/lab/daemon"
)

// stopGrace bounds the time that a process takes to end by itself.
const stopGrace = 10 * time.Second

// Process is one part of the world that runs in a process of its own. Its methods are
// safe for concurrent use.
type Process struct {
	set daemon.Set
	def daemon.Daemon
	// ports are the ports on which it listens on the host. A process that was killed a moment
	// ago may still hold them.
	ports []string

	mu sync.Mutex
	// wanted reports that it should run: an end that nobody asked for is a crash.
	wanted  bool
	stopped bool
	started time.Time
}

func newProcess(set daemon.Set, def daemon.Daemon, ports ...string) *Process {
	return &Process{set: set, def: def, ports: ports}
}

// Name returns the process's name, unique in its world.
func (p *Process) Name() string { return p.def.Name }

// Log returns the file with its output.
func (p *Process) Log() string { return p.set.LogFile(p.def.Name) }

// PID returns its process id while it runs.
func (p *Process) PID() (int, bool) { return p.set.PID(p.def.Name) }

// Start runs it, unless it runs already.
func (p *Process) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, running := p.set.PID(p.def.Name); !running {
		if err := awaitFree(p.ports); err != nil {
			return fmt.Errorf("start %s: %w", p.def.Name, err)
		}
	}
	if _, err := p.set.Start(p.def); err != nil {
		return err
	}
	p.wanted, p.stopped, p.started = true, false, time.Now()
	return nil
}

// Kill ends it with SIGKILL, and all processes that it started.
func (p *Process) Kill() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wanted, p.stopped = false, false
	return p.set.Kill(p.def.Name)
}

// Stop asks it to end, and kills it if it does not.
func (p *Process) Stop() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wanted = false
	if p.stopped {
		if err := p.signal(syscall.SIGCONT); err != nil {
			return err
		}
		p.stopped = false
	}
	return p.set.Stop(p.def.Name, stopGrace)
}

// Replace asks it to end, and runs another program in its place, as an upgrade does.
func (p *Process) Replace(program string) error {
	if err := p.Stop(); err != nil {
		return err
	}
	p.mu.Lock()
	p.def.Path = program
	p.mu.Unlock()
	return p.Start()
}

// Pause stops it with SIGSTOP, and waits until none of its threads runs: it keeps its connections and
// does not notice the time that passes.
func (p *Process) Pause() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	p.stopped = true
	pid, _ := p.set.PID(p.def.Name)
	for range 1000 {
		if running, err := threadsRun(pid); err != nil || !running {
			return err
		}
		time.Sleep(time.Millisecond)
	}
	return fmt.Errorf("pause %s: its threads still run after a second", p.def.Name)
}

// threadsRun reports whether a thread of a process runs, or can. One that waits in the kernel stops
// before it returns from there.
func threadsRun(pid int) (bool, error) {
	stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil {
		return false, fmt.Errorf("list the threads of process %d: %w", pid, err)
	}
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // the thread has ended
		}
		if i := bytes.LastIndexByte(stat, ')'); i >= 0 && i+2 < len(stat) && bytes.IndexByte([]byte("RS"), stat[i+2]) >= 0 {
			return true, nil
		}
	}
	return false, nil
}

// Resume ends a Pause.
func (p *Process) Resume() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.stopped {
		return nil
	}
	p.stopped = false
	return p.signal(syscall.SIGCONT)
}

func (p *Process) signal(s syscall.Signal) error {
	pid, running := p.set.PID(p.def.Name)
	if !running {
		return fmt.Errorf("signal %s: it does not run", p.def.Name)
	}
	if err := syscall.Kill(pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("signal %s: %w", p.def.Name, err)
	}
	return nil
}

// Crashed reports whether it ended although nobody ended it.
func (p *Process) Crashed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.wanted {
		return false
	}
	_, running := p.set.PID(p.def.Name)
	return !running
}

// Running reports whether it runs and is not paused.
func (p *Process) Running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, running := p.set.PID(p.def.Name)
	return running && !p.stopped
}

// Started returns the time of its last start.
func (p *Process) Started() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.started
}

// awaitFree returns when nobody listens at the addresses.
func awaitFree(addresses []string) error {
	deadline := time.Now().Add(stopGrace)
	for _, a := range addresses {
		for {
			l, err := net.Listen("tcp", a)
			if err == nil {
				if err := l.Close(); err != nil {
					return err
				}
				break
			}
			if time.Now().After(deadline) {
				return err
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	return nil
}
