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

	"github.com/petiole-io/petiole/internal/durable"
)

// revisionsPerStart is the number of resource versions that are reserved at each start: more
// than a process ever assigns.
const revisionsPerStart = 1 << 40

// firstRevision reserves the resource versions of this start, above those of all earlier
// starts, and returns the first one. If the data directory was lost, the clock provides a
// higher one: a version that a client has seen must not be assigned again.
func firstRevision(dir string, now time.Time) (uint64, error) {
	path := filepath.Join(dir, "revision")
	first := uint64(max(now.UnixMicro(), 1))
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return 0, fmt.Errorf("read revision: %w", err)
	default:
		// If the file is damaged the clock decides: the node API must start.
		if reserved, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64); err == nil {
			first = max(first, reserved)
		}
	}
	if err := durable.WriteFile(path, []byte(strconv.FormatUint(first+revisionsPerStart, 10)+"\n"), 0o600); err != nil {
		return 0, fmt.Errorf("reserve revisions: %w", err)
	}
	return first, nil
}
