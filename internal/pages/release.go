package pages

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// started is the time after which a program has read what it reads at its start alone.
const started = 30 * time.Second

// ReleaseOnceStarted calls Release when the program has run for a while, unless ctx ends before. It
// blocks until then.
func ReleaseOnceStarted(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-time.After(started):
		return Release()
	}
}

// Release unmaps the pages of the running program's file that nobody has changed: code and constants.
// What is used again is mapped again, from the kernel's cache, which may give up the rest. It needs /proc.
func Release() error {
	path, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return fmt.Errorf("read own mappings: %w", err)
	}
	defer f.Close()
	found, err := unchanged(f, path)
	if err != nil {
		return fmt.Errorf("read own mappings: %w", err)
	}
	var errs []error
	for _, m := range found {
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, m.start, m.end-m.start, unix.MADV_DONTNEED); errno != 0 {
			errs = append(errs, fmt.Errorf("release %x-%x of %s: %w", m.start, m.end, path, errno))
		}
	}
	return errors.Join(errs...)
}

type mapping struct{ start, end uintptr }

// unchanged returns the mappings of a file, in a /proc/PID/smaps (proc_pid_smaps(5)), that cannot be
// written to and have no page of their own: what is dropped of them can be read from the file again.
func unchanged(smaps io.Reader, path string) ([]mapping, error) {
	var found []mapping
	var last *mapping
	lines := bufio.NewScanner(smaps)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		switch {
		case len(fields) >= 5 && strings.Contains(fields[0], "-"):
			last = nil
			if len(fields) < 6 || strings.Join(fields[5:], " ") != path || strings.Contains(fields[1], "w") {
				continue
			}
			var m mapping
			if _, err := fmt.Sscanf(fields[0], "%x-%x", &m.start, &m.end); err != nil {
				return nil, fmt.Errorf("%q: %w", lines.Text(), err)
			}
			last = &m
		case len(fields) == 3 && fields[0] == "Anonymous:" && last != nil:
			if fields[1] == "0" {
				found = append(found, *last)
			}
			last = nil
		}
	}
	return found, lines.Err()
}
