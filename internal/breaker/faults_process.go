package breaker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/internal/breaker/check"
	"github.com/petiole-io/petiole/internal/breaker/world"
)

// readyTimeout bounds the return of a part that was started again.
const readyTimeout = time.Minute

func killLeaf(_ context.Context, r *run, a action) (func(context.Context) error, error) {
	s := r.world.Sites[a.target]
	r.countCut(a.target, false)
	if err := s.Leaf.Kill(); err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		defer r.countCut(a.target, true)
		return r.startLeaf(ctx, s)
	}, nil
}

// startLeaf starts a leaf and records how long it takes to serve.
func (r *run) startLeaf(ctx context.Context, s *world.Site) error {
	started := time.Now()
	if err := s.Leaf.Start(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := s.AwaitReady(ctx); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.slowestStart = max(r.slowestStart, time.Since(started))
	return nil
}

func pauseLeaf(_ context.Context, r *run, a action) (func(context.Context) error, error) {
	s := r.world.Sites[a.target]
	r.countCut(a.target, false)
	return func(context.Context) error {
		defer r.countCut(a.target, true)
		return s.Leaf.Resume()
	}, s.Leaf.Pause()
}

// killKubelet kills the kubelet of the full site; the leaf starts another.
func killKubelet(_ context.Context, r *run, _ action) (func(context.Context) error, error) {
	full := r.world.Sites[len(r.world.Sites)-1]
	if full.Runtime == nil {
		return nil, errNoFullSite
	}
	defer r.lock(locksLeaf(action{target: len(r.world.Sites) - 1}))()
	return nil, full.KillKubelet()
}

var errNoFullSite = errors.New("there is no full site")

// bridge returns the leader, or with role 1 the other bridge.
func (r *run) bridge(ctx context.Context, role int) *world.Bridge {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	leader := 0
	lease, err := r.world.Kube.CoordinationV1().Leases("petiole-system").Get(ctx, "bridge", metav1.GetOptions{})
	if err == nil && lease.Spec.HolderIdentity != nil && *lease.Spec.HolderIdentity == r.world.Bridges[1].ID {
		leader = 1
	}
	return r.world.Bridges[(leader+role)%2]
}

func killBridge(ctx context.Context, r *run, a action) (func(context.Context) error, error) {
	b := r.bridge(ctx, a.target)
	return func(context.Context) error { return b.Start() }, b.Kill()
}

func killBridges(_ context.Context, r *run, _ action) (func(context.Context) error, error) {
	var errs []error
	for _, b := range r.world.Bridges {
		errs = append(errs, b.Kill())
	}
	return func(context.Context) error {
		var errs []error
		for _, b := range r.world.Bridges {
			errs = append(errs, b.Start())
		}
		return errors.Join(errs...)
	}, errors.Join(errs...)
}

func pauseBridge(ctx context.Context, r *run, a action) (func(context.Context) error, error) {
	b := r.bridge(ctx, a.target)
	return func(context.Context) error { return b.Resume() }, b.Pause()
}

func killHub(_ context.Context, r *run, _ action) (func(context.Context) error, error) {
	return func(context.Context) error { return r.world.Hub.Start() }, r.world.Hub.Kill()
}

func pauseHub(_ context.Context, r *run, _ action) (func(context.Context) error, error) {
	return func(context.Context) error { return r.world.Hub.Resume() }, r.world.Hub.Pause()
}

// clockShifts are the shifts of clocks: an hour, a day, more than a year, and to
// 1970 as a machine without a battery has it.
var clockShifts = []time.Duration{
	time.Hour, -time.Hour, 24 * time.Hour, -24 * time.Hour, 400 * 24 * time.Hour, -56 * 365 * 24 * time.Hour,
}

func shiftClock(p *world.Process, dice uint64, choices []time.Duration) (func(context.Context) error, error) {
	pid, running := p.PID()
	if !running {
		return nil, fmt.Errorf("set clock: %s does not run", p.Name())
	}
	shift := choices[dice%uint64(len(choices))]
	return func(context.Context) error { return world.ShiftClock(pid, 0) }, world.ShiftClock(pid, shift)
}

func shiftLeaf(_ context.Context, r *run, a action) (func(context.Context) error, error) {
	return shiftClock(r.world.Sites[a.target].Leaf, a.dice, clockShifts)
}

// shiftBridge sets the clock of a bridge, which runs where clocks are kept, by an hour or
// a day.
func shiftBridge(ctx context.Context, r *run, a action) (func(context.Context) error, error) {
	return shiftClock(r.bridge(ctx, a.target).Process, a.dice, clockShifts[:4])
}

func startClone(_ context.Context, r *run, a action) (func(context.Context) error, error) {
	stop, err := r.world.Sites[a.target].StartClone()
	if err != nil {
		return nil, err
	}
	return func(context.Context) error { return stop() }, nil
}

// countCut counts the faults that cut a site off, so that the history records when nothing of
// it can arrive.
func (r *run) countCut(site int, again bool) {
	r.mu.Lock()
	before := r.cutOff[site]
	if again {
		r.cutOff[site]--
	} else {
		r.cutOff[site]++
	}
	after := r.cutOff[site]
	r.mu.Unlock()
	switch {
	case before == 0 && after == 1:
		r.record.add(check.Event{Kind: check.Unreachable, Site: r.world.Sites[site].Name})
	case before == 1 && after == 0:
		r.record.add(check.Event{Kind: check.Reachable, Site: r.world.Sites[site].Name})
	}
}

func random(dice uint64) *rand.Rand { return rand.New(rand.NewPCG(dice, dice)) }
