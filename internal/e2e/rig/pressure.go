package rig

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// pressureInterval is the interval at which the machine's CPU pressure is recorded,
	// pressureKept the time for which it is kept.
	pressureInterval = 100 * time.Millisecond
	pressureKept     = 15 * time.Minute
	// pressureWindow is the shortest time over which a share means something.
	pressureWindow = time.Second
	// idlePressure is the share of time in which something may have waited for a CPU on a
	// machine that has nothing else to do than the lab's work.
	idlePressure = 0.5
	// slack is the factor by which something may take longer on a machine that has.
	slack = 3
)

// Pressure records how busy the machine's CPUs were: for which share of a time at least one
// task that could run had to wait for a CPU, from the kernel's pressure stall information
// (/proc/pressure/cpu), and for which a hypervisor kept a CPU to itself (steal in
// /proc/stat). It is safe for concurrent use.
type Pressure struct {
	mu    sync.Mutex
	notes []pressureNote
}

// pressureNote is the time that tasks have waited since the machine started.
type pressureNote struct {
	at     time.Time
	waited time.Duration
}

// Run records the pressure until ctx ends.
func (p *Pressure) Run(ctx context.Context) error {
	tick := time.NewTicker(pressureInterval)
	defer tick.Stop()
	for {
		waited, err := cpuWaited()
		if err != nil {
			return err
		}
		p.note(pressureNote{time.Now(), waited})
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (p *Pressure) note(n pressureNote) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.notes = append(p.notes, n); n.at.Sub(p.notes[0].at) > pressureKept {
		p.notes = p.notes[1:]
	}
}

// Between returns the share of the time between two moments, 0 to 1, in which something
// waited for a CPU, and false if that was not recorded. A time shorter than a second is
// judged by the second that ends with it.
func (p *Pressure) Between(from, to time.Time) (float64, bool) {
	if to.Sub(from) < pressureWindow {
		from = to.Add(-pressureWindow)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var first, last *pressureNote
	for i := range p.notes {
		n := &p.notes[i]
		if !n.at.After(from) || first == nil {
			first = n
		}
		if last = n; !n.at.Before(to) {
			break
		}
	}
	if first == nil || first.at.Sub(from) > pressureInterval || !last.at.After(first.at) {
		return 0, false
	}
	return min(1, max(0, float64(last.waited-first.waited)/float64(last.at.Sub(first.at)))), true
}

// cpuWaited returns for how long tasks, and the machine itself, have waited for a CPU since
// the machine started.
func cpuWaited() (time.Duration, error) {
	pressure, err := os.ReadFile("/proc/pressure/cpu")
	if err != nil {
		return 0, fmt.Errorf("read how busy the machine is (the kernel needs CONFIG_PSI, and no psi=0): %w", err)
	}
	waited, err := parsePressure(string(pressure))
	if err != nil {
		return 0, err
	}
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	stolen, err := parseSteal(string(stat))
	return waited + stolen, err
}

// parsePressure returns the total of the line "some" of /proc/pressure/cpu.
func parsePressure(text string) (time.Duration, error) {
	line, _, _ := strings.Cut(text, "\n")
	_, total, ok := strings.Cut(line, " total=")
	micros, err := strconv.ParseInt(total, 10, 64)
	if !ok || !strings.HasPrefix(line, "some ") || err != nil {
		return 0, fmt.Errorf("read /proc/pressure/cpu: line %q is not of the form \"some … total=<µs>\"", line)
	}
	return time.Duration(micros) * time.Microsecond, nil
}

// parseSteal returns the eighth number of the line "cpu" of /proc/stat (proc_stat(5)).
func parseSteal(text string) (time.Duration, error) {
	line, _, _ := strings.Cut(text, "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, fmt.Errorf("read /proc/stat: line %q is not of the form \"cpu user nice system idle iowait irq softirq steal …\"", line)
	}
	ticks, err := strconv.ParseInt(fields[8], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read /proc/stat: steal: %w", err)
	}
	return time.Duration(ticks) * time.Second / clockTicks, nil
}

// Bound returns the time that an operation with this goal may take where something waited for
// a CPU for a share of the time, and why: the goal itself on a machine that had nothing
// else to do, or when that is not known; three times as long on one that had.
func Bound(goal time.Duration, share float64, known bool) (time.Duration, string) {
	switch {
	case !known:
		return goal, "how busy the machine was is not known"
	case share < idlePressure:
		return goal, fmt.Sprintf("something waited for a CPU for %.0f %% of the time: the machine was idle", 100*share)
	default:
		return slack * goal, fmt.Sprintf("something waited for a CPU for %.0f %% of the time: the machine was busy with other things", 100*share)
	}
}
