package main

import (
	"context"
	"runtime/debug"
	"time"
)

// releaseInterval is the time between two releases. On a quiet site one takes a few
// milliseconds.
const releaseInterval = 30 * time.Second

// releaseMemory returns free memory to the system until ctx ends. Startup and every burst of
// changes need several times as much as a quiet site, and Go's runtime keeps most of it for
// long: half of a leaf's anonymous memory after its start.
func releaseMemory(ctx context.Context) {
	tick := time.NewTicker(releaseInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			debug.FreeOSMemory()
		}
	}
}
