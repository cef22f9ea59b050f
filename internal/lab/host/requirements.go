package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// What a first build takes: measured on two cores, with an empty build cache and all
// programs of the lab.
const (
	// FirstBuild is its duration with a filled module cache.
	FirstBuild = 8 * time.Minute

	moduleCache = 3200 * mb
	buildCache  = 5500 * mb
	// workFolder is the go command's, which it empties when it ends.
	workFolder = 5000 * mb
	// programs are the built ones, and the lab's own data.
	programs = 1500 * mb
	// linkMemory is the memory that linking one of the large programs takes. As many are linked at
	// once as the go command may run commands, and two are large enough to matter.
	linkMemory = 3500 * mb
)

// packages is the space that Debian's packages take when most of them are missing.
const packages = 500 * mb

// rebuild is the space that must be free when everything has been built before.
const rebuild = 1000 * mb

const mb = 1_000_000

// Demand is a folder that will be written to.
type Demand struct {
	What, Dir string
	Bytes     uint64
	// Variable is the environment variable that moves the folder elsewhere, if one does.
	Variable string
}

// Requirements holds the disk space and memory that a build needs, and those that are free.
type Requirements struct {
	// First reports that the programs were never built here.
	First   bool
	Demands []Demand
	// Links is the number of large programs that are linked at once.
	Links int
	// Memory is the memory that can be used without swapping.
	Memory uint64
	// free finds the file system that holds a folder, and its free bytes.
	free func(dir string) (volume, error)
}

type volume struct {
	id   uint64
	free uint64
	// memory reports that its files are kept in memory (tmpfs).
	memory bool
}

// MeasureRequirements measures what a build of the repository at root will need. Installing says
// that Debian packages will be installed before it.
func MeasureRequirements(ctx context.Context, root string, installing bool) (Requirements, error) {
	out, err := goCommand(ctx, root, "", "env", "GOMODCACHE", "GOCACHE", "GOTMPDIR")
	if err != nil {
		return Requirements{}, err
	}
	dirs := strings.Split(string(out), "\n")
	if len(dirs) < 3 {
		return Requirements{}, fmt.Errorf("go env answers %q", out)
	}
	missing, err := MissingModules(ctx, root)
	if err != nil {
		return Requirements{}, err
	}
	memory, err := AvailableMemory()
	if err != nil {
		return Requirements{}, err
	}
	if dirs[2] == "" {
		dirs[2] = os.TempDir()
	}
	r := Requirements{First: !built(root), Links: links(os.Getenv("GOFLAGS"), runtime.NumCPU()), Memory: memory, free: freeAt}
	r.Demands = demands(r.First, len(missing) > 0, dirs[0], dirs[1], dirs[2], filepath.Join(root, ".lab"))
	if installing {
		r.Demands = append(r.Demands, Demand{"Debian packages", "/usr", packages, ""})
	}
	return r, nil
}

// built reports whether the programs that take the longest are there.
func built(root string) bool {
	for _, name := range []string{"lab", "petiole-kubelet", "crio"} {
		if _, err := os.Stat(filepath.Join(root, ".lab/bin", name)); err != nil {
			return false
		}
	}
	return true
}

func demands(first, modules bool, modCache, cache, work, lab string) []Demand {
	if !first {
		return []Demand{{"the go command's work folder", work, rebuild, "GOTMPDIR"}, {"the lab", lab, rebuild, ""}}
	}
	all := []Demand{
		{"the build cache", cache, buildCache, "GOCACHE"},
		{"the go command's work folder", work, workFolder, "GOTMPDIR"},
		{"programs and data of the lab", lab, programs, ""},
	}
	if modules {
		all = append([]Demand{{"the module cache", modCache, moduleCache, "GOMODCACHE"}}, all...)
	}
	return all
}

// Parallel returns how many programs the go command runs at once: its -p, which is the
// number of CPUs unless GOFLAGS says otherwise.
func Parallel(goflags string, cpus int) int {
	for _, f := range strings.Fields(goflags) {
		if n, err := strconv.Atoi(strings.TrimPrefix(f, "-p=")); err == nil && n > 0 {
			cpus = n
		}
	}
	return cpus
}

// links returns how many large programs are linked at once.
func links(goflags string, cpus int) int { return min(Parallel(goflags, cpus), 2) }

// need is the space needed on one file system.
type need struct {
	volume
	bytes   uint64
	demands []Demand
}

func (r Requirements) needs() ([]need, error) {
	var needs []need
	for _, d := range r.Demands {
		v, err := r.free(d.Dir)
		if err != nil {
			return nil, fmt.Errorf("find the free space for %s: %w", d.What, err)
		}
		i := 0
		for i < len(needs) && needs[i].id != v.id {
			i++
		}
		if i == len(needs) {
			needs = append(needs, need{volume: v})
		}
		needs[i].bytes += d.Bytes
		needs[i].demands = append(needs[i].demands, d)
	}
	return needs, nil
}

// memory returns the memory that the build takes: for its links, and for folders that are kept
// there.
func (r Requirements) memory(needs []need) uint64 {
	if !r.First {
		return 0
	}
	bytes := uint64(r.Links) * linkMemory
	for _, n := range needs {
		if n.volume.memory {
			bytes += n.bytes
		}
	}
	return bytes
}

// Check returns an ErrUnfit that names everything of which there is not enough, with the
// figures and what to do.
func (r Requirements) Check() error {
	needs, err := r.needs()
	if err != nil {
		return err
	}
	var lacks []string
	for _, n := range needs {
		if n.free < n.bytes {
			lacks = append(lacks, n.lack())
		}
	}
	if memory := r.memory(needs); r.Memory < memory {
		lacks = append(lacks, r.memoryLack(memory, needs))
	}
	if len(lacks) == 0 {
		return nil
	}
	return fmt.Errorf("%w; there is not enough space to build it:\n  - %s", ErrUnfit, strings.Join(lacks, "\n  - "))
}

func (n need) lack() string {
	var parts, variables []string
	for _, d := range n.demands {
		parts = append(parts, fmt.Sprintf("%s for %s in %s", size(d.Bytes), d.What, d.Dir))
		if d.Variable != "" {
			variables = append(variables, d.Variable)
		}
	}
	text := fmt.Sprintf("disk: %s free, %s needed (%s): free some", size(n.free), size(n.bytes), strings.Join(parts, ", "))
	if len(variables) > 0 {
		text += fmt.Sprintf(", or set %s to a folder on another disk", strings.Join(variables, " or "))
	}
	return text
}

func (r Requirements) memoryLack(bytes uint64, needs []need) string {
	text := fmt.Sprintf("memory: %s available, %s needed to link %d large programs at once", size(r.Memory), size(bytes), r.Links)
	var advice []string
	if r.Links > 1 {
		advice = append(advice, fmt.Sprintf(`GOFLAGS=%q links one at a time, takes longer and needs %s less`,
			strings.TrimSpace(os.Getenv("GOFLAGS")+" -p=1"), size(linkMemory)))
	}
	for _, n := range needs {
		for _, d := range n.demands {
			if n.volume.memory {
				text += fmt.Sprintf(", and for %s in %s, which is kept in memory", d.What, d.Dir)
				advice = append(advice, fmt.Sprintf("%s set to a folder on a disk needs %s less", d.Variable, size(d.Bytes)))
			}
		}
	}
	return strings.TrimSuffix(text+": "+strings.Join(advice, "; "), ": ")
}

// String returns the needs of a first build and the free space on one line; it is empty
// when everything was built before.
func (r Requirements) String() string {
	needs, err := r.needs()
	if !r.First || err != nil {
		return ""
	}
	var disks []string
	for _, n := range needs {
		var dirs []string
		for _, d := range n.demands {
			dirs = append(dirs, d.Dir)
		}
		disks = append(disks, fmt.Sprintf("%s of disk (%s free; %s)", size(n.bytes), size(n.free), strings.Join(dirs, ", ")))
	}
	return fmt.Sprintf("first build: up to %.0f min on two cores; takes %s and %s of memory (%s available)",
		FirstBuild.Minutes(), strings.Join(disks, ", "), size(r.memory(needs)), size(r.Memory))
}

func size(bytes uint64) string { return fmt.Sprintf("%.1f GB", float64(bytes)/1e9) }

// freeAt returns the free space of the file system of dir, or of the folder where dir will be
// created.
func freeAt(dir string) (volume, error) {
	var info unix.Stat_t
	err := unix.Stat(dir, &info)
	for errors.Is(err, fs.ErrNotExist) && dir != filepath.Dir(dir) {
		dir = filepath.Dir(dir)
		err = unix.Stat(dir, &info)
	}
	if err != nil {
		return volume{}, fmt.Errorf("look at %s: %w", dir, err)
	}
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return volume{}, fmt.Errorf("look at the file system of %s: %w", dir, err)
	}
	return volume{id: info.Dev, free: s.Bavail * uint64(s.Bsize), memory: s.Type == unix.TMPFS_MAGIC}, nil
}

// AvailableMemory returns how many bytes can be used without swapping: the kernel's
// estimate, or the limit of the cgroup (a container's) if that is less.
func AvailableMemory() (uint64, error) {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("read memory: %w", err)
	}
	available, err := memAvailable(string(data))
	if err != nil {
		return 0, err
	}
	for _, file := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		limit, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		if n, err := strconv.ParseUint(string(bytes.TrimSpace(limit)), 10, 64); err == nil { // else "max"
			available = min(available, n)
		}
	}
	return available, nil
}

// memAvailable reads MemAvailable of /proc/meminfo (proc(5)), which is in KiB.
func memAvailable(meminfo string) (uint64, error) {
	for line := range strings.Lines(meminfo) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "MemAvailable:" {
			n, err := strconv.ParseUint(f[1], 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read memory: MemAvailable %q: %w", f[1], err)
			}
			return n << 10, nil
		}
	}
	return 0, errors.New("read memory: /proc/meminfo has no MemAvailable")
}
