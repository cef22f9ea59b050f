package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Hierarchy is a mounted cgroup hierarchy, as a cgroup namespace mounts it again.
type Hierarchy struct{ Name, Kind, Options string }

// Mounted reads mountinfo, see proc_pid_mountinfo(5), and returns the hierarchies below
// /sys/fs/cgroup. On cgroup v2 alone there is one, without a name.
func Mounted(mountinfo []byte) []Hierarchy {
	var found []Hierarchy
	for line := range bytes.Lines(mountinfo) {
		mounted, file, ok := strings.Cut(string(line), " - ")
		point, kind := strings.Fields(mounted), strings.Fields(file)
		if !ok || len(point) < 5 || len(kind) < 3 || !strings.HasPrefix(kind[0], "cgroup") || !strings.HasPrefix(point[4], mountPoint) {
			continue
		}
		h := Hierarchy{Name: strings.TrimPrefix(strings.TrimPrefix(point[4], mountPoint), "/"), Kind: kind[0]}
		if h.Kind == "cgroup" {
			h.Options = controllers(kind[2])
		}
		found = append(found, h)
	}
	return found
}

// controllers returns the mount options that identify a v1 hierarchy.
func controllers(options string) string {
	var kept []string
	for _, o := range strings.Split(options, ",") {
		switch {
		case strings.HasPrefix(o, "name="):
			kept = append(kept, "none", o)
		case o == "rw" || o == "ro" || o == "xattr" || o == "clone_children" || o == "noprefix" || o == "cpuset_v2_mode" || strings.Contains(o, "="):
		default:
			kept = append(kept, o)
		}
	}
	return strings.Join(kept, ",")
}

// Mount mounts the hierarchies at the folder top. In a cgroup namespace they begin at its root.
func Mount(top string, all []Hierarchy) error {
	if len(all) > 1 {
		if err := unix.Mount("tmpfs", top, "tmpfs", 0, "mode=755"); err != nil {
			return fmt.Errorf("mount %s: %w", top, err)
		}
	}
	for _, h := range all {
		dir := filepath.Join(top, h.Name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("create %s: %w", dir, err)
		}
		if err := unix.Mount(h.Kind, dir, h.Kind, 0, h.Options); err != nil {
			return fmt.Errorf("mount cgroup hierarchy %q with %q: %w", h.Name, h.Options, err)
		}
		names := strings.Split(h.Name, ",")
		for _, n := range names {
			if len(names) == 1 {
				break
			}
			if err := os.Symlink(h.Name, filepath.Join(top, n)); err != nil {
				return fmt.Errorf("link %s: %w", n, err)
			}
		}
	}
	return nil
}

// LeaveTop moves the processes at the root of this cgroup namespace into a cgroup init, where there
// is v2: a cgroup whose children have controllers holds no process.
func LeaveTop() error {
	found, err := filepath.Glob(mountPoint + "/cgroup.controllers")
	if err == nil && len(found) == 0 { // v1, and v2 beside it
		found, err = filepath.Glob(mountPoint + "/*/cgroup.controllers")
	}
	if err != nil {
		return err
	}
	for _, file := range found {
		if err := leave(filepath.Dir(file)); err != nil {
			return err
		}
	}
	return nil
}

func leave(top string) error {
	dir := filepath.Join(top, "init")
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("create cgroup: %w", err)
	}
	processes, err := os.ReadFile(filepath.Join(top, "cgroup.procs"))
	if err != nil {
		return fmt.Errorf("list processes: %w", err)
	}
	for _, pid := range strings.Fields(string(processes)) {
		err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(pid), 0)
		if err != nil && !errors.Is(err, unix.ESRCH) { // has ended meanwhile
			return fmt.Errorf("move process %s into its cgroup: %w", pid, err)
		}
	}
	return nil
}
