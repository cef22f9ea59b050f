package leaf

import (
	"context"
	"runtime/debug"
	"time"
)

// trimInterval is how often memory is given back. On a site that is quiet one pass takes
// a few milliseconds.
const releaseInterval = 30 * time.Second

// trim gives memory that is free back to the system until ctx ends. Starting up and every
// burst of changes need several times what a quiet site does, and Go's runtime keeps most
// of it for long: half of a leaf's anonymous memory after its start.
func releaseMemory(ctx context.Context) error {
	tick := time.NewTicker(releaseInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			debug.FreeOSMemory()
		}
	}
}
