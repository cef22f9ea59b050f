package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/petiole-io/petiole/internal/lab/mounts"
)

// view lists the contents of the box: processes, network namespaces and devices, mounts and
// cgroups, each under a name with its kind.
type view map[string]bool

// inspect takes a view. This process and process 1 are not in it.
func inspect() (view, error) {
	v := view{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == 1 || pid == os.Getpid() {
			continue
		}
		line, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil {
			continue // it has ended meanwhile
		}
		v["process "+e.Name()+": "+strings.ReplaceAll(strings.TrimRight(string(line), "\x00"), "\x00", " ")] = true
	}
	points, err := mounts.Below("")
	if err != nil {
		return nil, err
	}
	for _, p := range points {
		v["mount "+p] = true
	}
	for what, dir := range map[string]string{"network namespace": "/run/netns", "network device": "/sys/class/net"} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("list each %s: %w", what, err)
		}
		for _, e := range entries {
			v[what+" "+e.Name()] = true
		}
	}
	err = filepath.WalkDir("/sys/fs/cgroup", func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err == nil && e.IsDir() {
			v["cgroup "+path] = true
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list cgroups: %w", err)
	}
	return v, nil
}

// left returns the entries of v that were not there before.
func (v view) left(before view) []string {
	var found []string
	for _, name := range slices.Sorted(maps.Keys(v)) {
		// ip(8) mounts its folder of namespaces when it creates the first one, for ever.
		if !before[name] && name != "mount /run/netns" {
			found = append(found, name)
		}
	}
	return found
}

// awaitNothing returns when nothing is left that was not there before, or an error that lists what
// is left after ten seconds: a process that was killed takes a moment to end.
func awaitNothing(ctx context.Context, before view) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		now, err := inspect()
		if err != nil {
			return err
		}
		left := now.left(before)
		if len(left) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("something is left behind:\n  - %s", strings.Join(left, "\n  - "))
		case <-time.After(100 * time.Millisecond):
		}
	}
}
