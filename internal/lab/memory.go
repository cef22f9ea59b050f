package lab

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/petiole-io/petiole/internal/lab/cgroup"
)

// limits are those of a site that has less memory than the machine; zero without any.
type limits struct {
	// procs is the file of the cgroup in which leaf and CRI-O start.
	procs string
	// programs is the folder of the site's own copies of the large programs.
	programs string
}

// program returns the path of one of the large programs of a site.
func (l *Lab) program(s site, name string) string {
	if s.programs != "" {
		return filepath.Join(s.programs, name)
	}
	return l.bin(name)
}

// limit bounds the memory of a site that does not run. It gives the site programs of its own: a
// page of a file counts where it was read first, and the other site runs the same programs.
func (l *Lab) limit(s *site, memory int64) (err error) {
	s.programs = filepath.Join(s.dir, "programs")
	if err := os.MkdirAll(s.programs, 0o755); err != nil {
		return fmt.Errorf("create folder of programs: %w", err)
	}
	for _, name := range []string{"leaf", "petiole-kubelet", "crio"} {
		if err := copyUncached(l.bin(name), filepath.Join(s.programs, name)); err != nil {
			return fmt.Errorf("copy %s: %w", name, err)
		}
	}
	s.procs, err = cgroup.Limit(s.cgroup, memory)
	return err
}

// copyUncached copies a program and leaves no page of the copy in memory.
func copyUncached(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := os.Remove(to); err != nil && !os.IsNotExist(err) {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	if err := out.Sync(); err != nil {
		return err
	}
	if err := unix.Fadvise(int(out.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return fmt.Errorf("drop pages: %w", err)
	}
	return out.Close()
}
