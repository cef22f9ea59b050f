package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A container that ignores SIGTERM keeps CRI-O from starting pods until its grace period is
// over: while CRI-O stops it, CRI-O answers no request for statistics, and holds a lock that
// every new sandbox needs (cri-o 1.34.0, issues 6147, 8748, 9754). The kubelet sends such
// requests every 10 s, unless the socket has the path of a gateway's, run/crio/crio.sock.
// Nearly every spec leaves such a container behind.
const (
	// longGrace is the least grace period of containers that are ended, patience after which time.
	longGrace = 10 * time.Second
	patience  = 3 * time.Second
)

// stopping ends containers of a site that are to be stopped and cannot notice it.
type stopping struct {
	log     string // of CRI-O
	runtime string // folder of runc's state
	// patience is how long a container may take to stop.
	patience time.Duration
}

// stopLine is CRI-O's at the start of a stop.
var stopLine = regexp.MustCompile(`Stopping container: ([0-9a-f]{64}) \(timeout: ([0-9]+)s\)`)

// run follows the log until ctx ends, and returns the number of containers that it ended.
func (s stopping) run(ctx context.Context) (int, error) {
	f, err := os.Open(s.log)
	if err != nil {
		return 0, fmt.Errorf("follow CRI-O's log: %w", err)
	}
	defer f.Close()
	if _, err := f.Seek(0, io.SeekEnd); err != nil {
		return 0, fmt.Errorf("follow CRI-O's log: %w", err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	var mu sync.Mutex
	ended := 0
	lines := bufio.NewReader(f)
	var rest string
	for {
		part, err := lines.ReadString('\n')
		rest += part
		if err == nil {
			if id, found := toEnd(rest); found {
				wg.Go(func() {
					if s.endIfDeaf(ctx, id) {
						mu.Lock()
						ended++
						mu.Unlock()
					}
				})
			}
			rest = ""
			continue
		}
		if !errors.Is(err, io.EOF) {
			return ended, fmt.Errorf("follow CRI-O's log: %w", err)
		}
		select {
		case <-ctx.Done():
			wg.Wait()
			return ended, nil
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// toEnd returns the container in a line of CRI-O's log if its stop can take long.
func toEnd(line string) (id string, found bool) {
	m := stopLine.FindStringSubmatch(line)
	if m == nil {
		return "", false
	}
	seconds, err := strconv.Atoi(m[2])
	return m[1], err == nil && time.Duration(seconds)*time.Second >= longGrace
}

// endIfDeaf kills the container's first process after a while, if SIGTERM has no effect on it.
func (s stopping) endIfDeaf(ctx context.Context, id string) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(s.patience):
	}
	pid, err := s.pid(id)
	if err != nil {
		return false // it has ended
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil || !deaf(string(status)) {
		return false
	}
	return unix.Kill(pid, unix.SIGKILL) == nil
}

// pid returns the first process of a container. CRI-O does not answer while it stops it.
func (s stopping) pid(id string) (int, error) {
	data, err := os.ReadFile(filepath.Join(s.runtime, id, "state.json"))
	if err != nil {
		return 0, err
	}
	var state struct {
		PID int `json:"init_process_pid"`
	}
	if err := json.Unmarshal(data, &state); err != nil {
		return 0, err
	}
	if state.PID <= 1 {
		return 0, fmt.Errorf("container %s has process %d", id, state.PID)
	}
	return state.PID, nil
}

// deaf reports whether a process, by its /proc/PID/status, is the first of its PID namespace and
// does not catch SIGTERM: then the kernel drops the signal.
func deaf(status string) bool {
	var first, catches bool
	for line := range strings.Lines(status) {
		key, value, _ := strings.Cut(line, ":")
		fields := strings.Fields(value)
		switch key {
		case "NSpid":
			first = len(fields) > 1 && fields[len(fields)-1] == "1"
		case "SigCgt":
			if len(fields) == 1 {
				mask, err := strconv.ParseUint(fields[0], 16, 64)
				catches = err != nil || mask&(1<<(unix.SIGTERM-1)) != 0
			}
		}
	}
	return first && !catches
}
