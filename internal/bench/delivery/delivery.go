// Package delivery measures what delivery costs, on a world of its own (package world): how
// soon a site that was away has the changes, how many requests a reconnect of many sites sends
// to the API server, and how much memory a bridge takes while a site is away. `bench delivery`
// calls it; it needs root and the programs of `task build`, and no lab beside it.
package delivery

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/petiole-io/petiole/internal/breaker/world"
)

// Options configures the measurement. The zero value of a field stands for the default given.
type Options struct {
	// Root is the repository.
	Root string
	// Sites is the number of simulated sites that reconnect; default 200. ChangesPerSite
	// is the number of objects of each changed meanwhile; default 10.
	Sites, ChangesPerSite int
	// Reconnects is how often they do; default 3.
	Reconnects int
	// Only is the part to measure, returns or reconnect; default all, and the memory of a bridge.
	Only string
	// Backlogs are the numbers of changed objects after which a site's return is
	// measured; default 200, 200, 200 and 5000.
	Backlogs []int
	// Changes is the number of changes that a bridge sees while a site is away; default 100000.
	Changes int
}

// Run measures and prints the results. It takes some minutes.
func Run(ctx context.Context, o Options, out io.Writer) (err error) {
	o = o.withDefaults()
	switch {
	case !slices.Contains([]string{"", "returns", "reconnect"}, o.Only):
		return fmt.Errorf("--only %q: want returns or reconnect", o.Only)
	case o.Reconnects < 1:
		return fmt.Errorf("--reconnects %d: must be at least 1", o.Reconnects)
	}
	dir := filepath.Join(o.Root, ".lab", "bench-delivery")
	w, err := world.New(world.Options{Root: o.Root, Dir: dir, Sites: 1, Simulated: o.Sites, OnWrite: func(world.Write) {}})
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, w.Close())
		if err == nil {
			err = os.RemoveAll(dir)
		}
	}()
	begin, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	if err := w.Up(begin); err != nil {
		return err
	}
	b := &bench{opts: o, world: w, out: out, dir: dir}
	if err := b.open(); err != nil {
		return err
	}
	defer b.admin.Close()
	for _, part := range []struct {
		name    string
		measure func(context.Context) error
	}{{"returns", b.returns}, {"reconnect", b.reconnect}, {"memory", b.memory}} {
		if o.Only != "" && o.Only != part.name {
			continue
		}
		if err := part.measure(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (o Options) withDefaults() Options {
	set := func(n *int, to int) {
		if *n == 0 {
			*n = to
		}
	}
	set(&o.Sites, 200)
	set(&o.ChangesPerSite, 10)
	set(&o.Changes, 100_000)
	set(&o.Reconnects, 3)
	if len(o.Backlogs) == 0 {
		o.Backlogs = []int{200, 200, 200, 5000}
	}
	return o
}

// sleep waits and reports whether ctx still runs.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// await polls until cond returns nil.
func await(ctx context.Context, what string, limit time.Duration, cond func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := cond(ctx)
		if err == nil {
			return nil
		}
		if !sleep(ctx, 50*time.Millisecond) {
			return fmt.Errorf("await %s: %w", what, err)
		}
	}
}
