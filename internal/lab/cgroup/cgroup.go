// Package cgroup creates, empties and removes a cgroup of its own for each site, so that
// two kubelets on one machine do not clean up each other's pods.
//
// It works on cgroup v1, hybrid and v2. Create fills the files that v1's cpuset needs and, on v2,
// delegates every controller that the machine has.
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/petiole-io/petiole/internal/lab/daemon"
)

const mountPoint = "/sys/fs/cgroup"

// hierarchies are the mount points of all cgroup hierarchies.
func hierarchies() ([]string, error) {
	if exists(filepath.Join(mountPoint, "cgroup.controllers")) {
		return []string{mountPoint}, nil
	}
	entries, err := os.ReadDir(mountPoint)
	if err != nil {
		return nil, fmt.Errorf("find cgroup hierarchies: %w", err)
	}
	var found []string
	for _, e := range entries {
		dir := filepath.Join(mountPoint, e.Name())
		if e.IsDir() && exists(filepath.Join(dir, "cgroup.procs")) {
			found = append(found, dir)
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("find cgroup hierarchies: none is mounted below %s", mountPoint)
	}
	return found, nil
}

// Create creates the cgroup in every hierarchy.
func Create(name string) error {
	dirs, err := createEmpty(name)
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if err := delegate(dir); err != nil {
			return err
		}
	}
	return nil
}

// CreateWith creates the cgroup in every hierarchy and moves a process into it. It does not
// delegate the cgroup's controllers: on v2 one whose children have them holds no process.
func CreateWith(name string, pid int) error {
	dirs, err := createEmpty(name)
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
			return fmt.Errorf("enter cgroup: %w", err)
		}
	}
	return nil
}

// createEmpty creates the cgroup's folder in every hierarchy, ready for processes.
func createEmpty(name string) ([]string, error) {
	roots, err := hierarchies()
	if err != nil {
		return nil, err
	}
	dirs := make([]string, 0, len(roots))
	for _, root := range roots {
		dir := filepath.Join(root, name)
		if err := delegate(root); err != nil {
			return nil, err
		}
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, fmt.Errorf("create cgroup: %w", err)
		}
		for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
			if err := inherit(root, dir, f); err != nil {
				return nil, err
			}
		}
		dirs = append(dirs, dir)
	}
	return dirs, nil
}

// delegate lets the children of a v2 cgroup use its controllers.
func delegate(dir string) error {
	available, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if errors.Is(err, os.ErrNotExist) {
		return nil // v1
	}
	if err != nil {
		return fmt.Errorf("read controllers: %w", err)
	}
	control := filepath.Join(dir, "cgroup.subtree_control")
	enabled, err := os.ReadFile(control)
	if err != nil {
		return fmt.Errorf("read controllers: %w", err)
	}
	for _, c := range strings.Fields(string(available)) {
		if slices.Contains(strings.Fields(string(enabled)), c) {
			continue
		}
		if err := os.WriteFile(control, []byte("+"+c), 0); err != nil {
			return fmt.Errorf("delegate controller %s in %s: %w", c, dir, err)
		}
	}
	return nil
}

// inherit copies a v1 cpuset file, which is empty in a new cgroup. On v2 an empty file
// means the parent's.
func inherit(parent, child, file string) error {
	value, err := os.ReadFile(filepath.Join(parent, file))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read cpuset: %w", err)
	}
	if err := os.WriteFile(filepath.Join(child, file), value, 0); err != nil {
		return fmt.Errorf("fill cpuset: %w", err)
	}
	return nil
}

// Kill ends every process below the cgroup at once.
func Kill(name string) error {
	err := daemon.KillAll(func() []int {
		pids, _ := Members(name) // a cgroup that vanishes meanwhile is empty
		return pids
	})
	if err != nil {
		return fmt.Errorf("kill cgroup %s: %w", name, err)
	}
	return nil
}

// Count returns the number of processes below the cgroup.
func Count(name string) (int, error) {
	pids, err := Members(name)
	return len(pids), err
}

// Remove removes the cgroup and those below it. They must be empty of processes.
func Remove(name string) error {
	dirs, err := tree(name)
	if err != nil {
		return err
	}
	slices.Reverse(dirs) // children first
	for _, d := range dirs {
		if err := os.Remove(d); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove cgroup: %w", err)
		}
	}
	return nil
}

// Members returns the ids of the processes in the cgroup and in those below it.
func Members(name string) ([]int, error) {
	dirs, err := tree(name)
	if err != nil {
		return nil, err
	}
	found := map[int]struct{}{}
	for _, d := range dirs {
		data, err := os.ReadFile(filepath.Join(d, "cgroup.procs"))
		if err != nil {
			continue // removed meanwhile, or a threaded cgroup whose processes are its parent's
		}
		for _, f := range strings.Fields(string(data)) {
			if pid, err := strconv.Atoi(f); err == nil && pid > 0 {
				found[pid] = struct{}{}
			}
		}
	}
	pids := make([]int, 0, len(found))
	for pid := range found {
		pids = append(pids, pid)
	}
	return pids, nil
}

// tree lists the cgroup's folders in every hierarchy, parents first.
func tree(name string) ([]string, error) {
	roots, err := hierarchies()
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, root := range roots {
		err := filepath.WalkDir(filepath.Join(root, name), func(path string, e fs.DirEntry, err error) error {
			switch {
			case errors.Is(err, os.ErrNotExist):
				return nil
			case err != nil:
				return err
			case e.IsDir():
				dirs = append(dirs, path)
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("list cgroup %s: %w", name, err)
		}
	}
	return dirs, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
