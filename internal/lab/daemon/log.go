package daemon

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// logWindow bounds how much of the end of a log is read, in bytes.
const logWindow = 256 << 10

// LogFile returns the file of the daemon's output.
func (s Set) LogFile(name string) string { return filepath.Join(s.LogDir, name+".log") }

// Log returns the lines that the daemon wrote since its last start, at most the last
// 256 KiB of them.
func (s Set) Log(name string) (lines []string, err error) {
	f, err := os.Open(s.LogFile(name))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, fmt.Errorf("read log of %s: %w", name, err)
	}
	var from int64
	if r, err := s.read(name); err == nil && r.LogStart <= size { // else somebody has cut the log
		from = r.LogStart
	}
	cut := size-from > logWindow
	from = max(from, size-logWindow)
	data := make([]byte, size-from)
	n, err := f.ReadAt(data, from)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read log of %s: %w", name, err)
	}
	lines = strings.Split(strings.TrimRight(string(data[:n]), "\n"), "\n")
	if cut {
		lines = lines[1:] // the rest of a line
	}
	if len(lines) == 1 && lines[0] == "" {
		return nil, nil
	}
	return lines, nil
}
