package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// agents is the child cgroup for the processes of a machine that are in no pod: on v2 a cgroup
// whose children have controllers holds no process.
const agents = "agents"

// Limit bounds the memory of everything in the cgroup: anonymous memory, pages of files, the
// kernel's. It returns the cgroup.procs file of a child cgroup for processes that are in no pod.
func Limit(name string, bytes int64) (procs string, err error) {
	root, v2 := memoryRoot()
	dir, file := filepath.Join(root, name), "memory.limit_in_bytes"
	if v2 {
		file = "memory.max"
	}
	if err := os.WriteFile(filepath.Join(dir, file), []byte(strconv.FormatInt(bytes, 10)), 0); err != nil {
		return "", fmt.Errorf("limit memory of cgroup: %w", err)
	}
	if err := os.Mkdir(filepath.Join(dir, agents), 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return "", fmt.Errorf("create cgroup: %w", err)
	}
	return filepath.Join(dir, agents, "cgroup.procs"), nil
}

// memoryRoot returns the hierarchy that counts memory, and whether it is v2.
func memoryRoot() (root string, v2 bool) {
	if exists(filepath.Join(mountPoint, "cgroup.controllers")) {
		return mountPoint, true
	}
	return filepath.Join(mountPoint, "memory"), false
}

// Memory is the memory of everything in a cgroup, in bytes.
type Memory struct {
	// Used counts all of it, Anonymous what cannot be read again, Cache pages of files, Mapped
	// those of them that processes have mapped, Shmem files in memory.
	Used, Anonymous, Cache, Mapped, Shmem int64
	// MajorFaults counts pages that had to be read from disk when a process needed them.
	MajorFaults int64
	// AtLimit counts how often the limit was reached, OOMKills the processes that were killed.
	AtLimit, OOMKills int64
}

// ReadMemory reads the memory of a cgroup and of those in it.
func ReadMemory(name string) (m Memory, err error) {
	root, v2 := memoryRoot()
	dir := filepath.Join(root, name)
	fields := map[string]*int64{"total_rss": &m.Anonymous, "total_cache": &m.Cache, "total_mapped_file": &m.Mapped, "total_shmem": &m.Shmem, "total_pgmajfault": &m.MajorFaults}
	used := "memory.usage_in_bytes"
	if v2 {
		fields = map[string]*int64{"anon": &m.Anonymous, "file": &m.Cache, "file_mapped": &m.Mapped, "shmem": &m.Shmem, "pgmajfault": &m.MajorFaults}
		used = "memory.current"
	}
	if err := readFields(filepath.Join(dir, "memory.stat"), fields); err != nil {
		return m, err
	}
	if m.Used, err = readNumber(filepath.Join(dir, used)); err != nil {
		return m, err
	}
	if v2 {
		return m, readFields(filepath.Join(dir, "memory.events"), map[string]*int64{"max": &m.AtLimit, "oom_kill": &m.OOMKills})
	}
	if m.AtLimit, err = readNumber(filepath.Join(dir, "memory.failcnt")); err != nil {
		return m, err
	}
	// On v1 each cgroup counts its own.
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return ignoreMissing(err)
		}
		var kills int64
		err = readFields(filepath.Join(path, "memory.oom_control"), map[string]*int64{"oom_kill": &kills})
		m.OOMKills += kills
		return ignoreMissing(err)
	})
	return m, err
}

// ignoreMissing returns nil for a cgroup that was removed meanwhile.
func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

func readNumber(path string) (int64, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("read memory of cgroup: %w", err)
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read memory of cgroup: %s: %w", path, err)
	}
	return n, nil
}

// readFields reads lines of a name and a number.
func readFields(path string, fields map[string]*int64) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read memory of cgroup: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) != 2 || fields[f[0]] == nil {
			continue
		}
		if *fields[f[0]], err = strconv.ParseInt(f[1], 10, 64); err != nil {
			return fmt.Errorf("read memory of cgroup: %s: %w", path, err)
		}
	}
	return nil
}
