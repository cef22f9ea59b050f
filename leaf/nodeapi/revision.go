package nodeapi

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// revisionsPerStart is how many resource versions one start of the process may give
// out: more than it ever will.
const revisionsPerStart = 1 << 40

// firstRevision reserves the resource versions of this start, above those of all
// earlier ones. The clock is a second guard, for a lost data directory: a client that
// has seen a version must not find another object under it.
func firstRevision(dir string, now time.Time) (uint64, error) {
	path := filepath.Join(dir, "revision")
	first := uint64(max(now.UnixMicro(), 1))
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return 0, fmt.Errorf("read revision: %w", err)
	default:
		// A file that was damaged leaves the clock to decide: the site must start.
		if reserved, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64); err == nil {
			first = max(first, reserved)
		}
	}
	if err := writeFile(path, []byte(strconv.FormatUint(first+revisionsPerStart, 10)+"\n")); err != nil {
		return 0, fmt.Errorf("reserve revisions: %w", err)
	}
	return first, nil
}
