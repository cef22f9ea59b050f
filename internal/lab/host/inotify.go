package host

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// labInotify is the number of inotify instances that a lab takes, rounded up: most are CRI-O's and the
// kubelet's.
const labInotify = 32

const maxInotify = "fs.inotify.max_user_instances"

// Inotify holds the number of inotify instances of this user that are open, and that may be. CRI-O does
// not start without one, and reports "too many open files".
type Inotify struct{ Open, Max int }

// MeasureInotify counts the instances of processes that this one sees: in a container there may be more.
func MeasureInotify() (Inotify, error) {
	text, err := os.ReadFile("/proc/sys/fs/inotify/max_user_instances")
	if err != nil {
		return Inotify{}, fmt.Errorf("read %s: %w", maxInotify, err)
	}
	var i Inotify
	if i.Max, err = strconv.Atoi(string(bytes.TrimSpace(text))); err != nil {
		return Inotify{}, fmt.Errorf("read %s: %w", maxInotify, err)
	}
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return Inotify{}, err
	}
	for _, p := range processes {
		info, err := os.Stat(p)
		if err != nil {
			continue // it has ended
		}
		if owner, ok := info.Sys().(*syscall.Stat_t); !ok || int(owner.Uid) != os.Geteuid() {
			continue
		}
		n, err := countInotify(filepath.Join(p, "fd"))
		if err != nil {
			return Inotify{}, err
		}
		i.Open += n
	}
	return i, nil
}

// countInotify counts the inotify instances among the open files of a process, none if it has ended or
// is not to be seen.
func countInotify(fds string) (int, error) {
	files, err := os.ReadDir(fds)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ESRCH) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("count inotify instances: %w", err)
	}
	n := 0
	for _, f := range files {
		// A file that has been closed has no target.
		if target, err := os.Readlink(filepath.Join(fds, f.Name())); err == nil && target == "anon_inode:inotify" {
			n++
		}
	}
	return n, nil
}

// String returns the remedy if too few instances are left for another lab, and "" otherwise.
func (i Inotify) String() string {
	if i.Max-i.Open >= labInotify {
		return ""
	}
	return fmt.Sprintf(`%s is %d, and %d are open; a lab takes %d, without one CRI-O ends with "too many open files". Unless it already runs: sysctl -w %s=1024`, maxInotify, i.Max, i.Open, labInotify, maxInotify)
}
