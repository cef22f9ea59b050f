package breaker

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
)

// version is one of the two versions of a run with Options.Former.
type version string

const (
	former  version = "former"
	current version = "current"
)

// pair is which versions bridges and leaves have in a round.
type pair struct{ bridge, leaf version }

// skew are the rounds of a run with two versions. It upgrades the bridges first and the leaves after
// them, goes back in the opposite order, and upgrades in the wrong one.
var skew = []pair{
	{former, former},
	{current, former},
	{current, current},
	{current, former},
	{former, former},
	{former, current},
	{current, current},
}

// program returns the path of a program in one of the versions.
func (o Options) program(name string, v version) string {
	if v == former {
		return filepath.Join(o.Former, name)
	}
	return filepath.Join(o.Root, ".lab/bin", name)
}

// replace has bridges and leaves of the given versions run, one after the other, while everything
// goes on. What has the version already is not touched.
func (r *run) replace(ctx context.Context, to pair) error {
	r.record.printf("bridges are of the %s version, leaves of the %s one", to.bridge, to.leaf)
	var errs []error
	if to.bridge != r.running.bridge {
		errs = append(errs, r.replaceBridges(ctx, to.bridge))
	}
	if to.leaf != r.running.leaf {
		for i := range r.world.Sites {
			errs = append(errs, r.replaceLeaf(ctx, i, to.leaf))
		}
	}
	r.running = to
	return errors.Join(errs...)
}

func (r *run) replaceBridges(ctx context.Context, to version) error {
	defer r.lock(locksBridges(action{}))()
	for _, b := range r.world.Bridges {
		if err := b.Replace(r.opts.program("bridge", to)); err != nil {
			return fmt.Errorf("replace bridge %s: %w", b.ID, err)
		}
	}
	return ctx.Err()
}

func (r *run) replaceLeaf(ctx context.Context, site int, to version) error {
	defer r.lock(locksLeaf(action{target: site}))()
	r.countCut(site, false)
	defer r.countCut(site, true)
	s := r.world.Sites[site]
	if err := s.Leaf.Replace(r.opts.program("leaf", to)); err != nil {
		return fmt.Errorf("replace the leaf of %s: %w", s.Name, err)
	}
	ready, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := s.AwaitReady(ready); err != nil {
		r.record.printf("%v", err) // whether its site converges is judged at the end of the round
	}
	return ctx.Err()
}
