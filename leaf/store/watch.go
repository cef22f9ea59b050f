package store

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/petiole-io/petiole/streams"
)

// checkWait bounds the questions of one check to the server.
const checkWait = 2 * time.Second

// Run checks the disk and the store, and compacts SITE_DESIRED, until ctx ends. It returns
// ErrRebuild if SITE_DESIRED is damaged.
func (sv *Supervisor) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return sv.watch(ctx) })
	group.Go(func() error { return sv.compactor.run(ctx) })
	return group.Wait()
}

func (sv *Supervisor) watch(ctx context.Context) error {
	tick := time.NewTicker(CheckInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			sv.check(ctx)
		case <-sv.desired.unreadable:
			if reason, _, err := sv.desired.inspect(ctx); err == nil && reason != "" && sv.server != nil {
				return fmt.Errorf("%w: %s", ErrRebuild, reason)
			}
		}
	}
}

// check examines the disk and the store once.
func (sv *Supervisor) check(ctx context.Context) {
	asking, cancel := context.WithTimeout(ctx, checkWait)
	defer cancel()
	if sv.server == nil {
		sv.checkpointAll(asking)
		return
	}
	if after := sv.idle.check(); after > 0 {
		sv.log.Error("restarting the embedded server, it no longer tries to reach the hub", zap.Duration("after", after))
		sv.counters.restarts.Inc()
		sv.Restart(ctx, func() error { return nil })
		return
	}
	disk := sv.telemetry.disk
	s, err := disk.space()
	if sv.failures.Report("read the free space", err); err != nil {
		return
	}
	stalled := sv.server.Health()
	if changed := sv.degraded.set(streams.DegradedDiskFull, stalled != nil || disk.full(s)); changed {
		sv.log.Warn("store changed", zap.Bool("stores", stalled == nil), zap.Int64("free", s.free), zap.NamedError("reason", stalled))
	}
	if stalled != nil {
		sv.restartStalled(ctx, s)
		return
	}
	sv.restartPause = minRestartPause
	sv.checkpointAll(asking)
	err = sv.telemetry.adjust(asking, s)
	if err != nil {
		// The disk may have become full since.
		if now, e := disk.space(); e == nil && disk.full(now) {
			err = sv.telemetry.adjust(asking, now)
		}
	}
	sv.failures.Report("bound telemetry", err)
	if s.free > disk.reserved(s) {
		sv.failures.Report("allocate the reserve file", disk.allocateReserveFile(s))
	}
}

func (sv *Supervisor) checkpointAll(ctx context.Context) {
	sv.desired.checkpointChanged(ctx)
	sv.losses.checkpointUpstream(ctx)
	sv.failures.Report("checkpoint device state", sv.losses.checkDeviceState(ctx, false))
}

// restartStalled restarts a server that stopped storing, if there is a chance that this helps:
// after a disk error a stream refuses every message until the restart.
func (sv *Supervisor) restartStalled(ctx context.Context, s space) {
	if time.Since(sv.restarted) < sv.restartPause {
		return
	}
	if disk := sv.telemetry.disk; disk.full(s) {
		sv.failures.Report("release the reserve file", disk.releaseSpace())
		now, err := disk.space()
		if err != nil || disk.full(now) {
			return
		}
	}
	sv.log.Warn("restarting the embedded server, its store has stopped accepting messages")
	sv.counters.restarts.Inc()
	sv.Restart(ctx, func() error { return nil })
}

// recoverTimeout bounds the recovery of streams after a restart: the disk may be full.
const recoverTimeout = 30 * time.Second

// Restart restarts the server and calls between while it does not run. Streams that the server
// does not recover are set up again, with their messages where these cannot be had again. A
// stream that holds less afterwards starts a new incarnation before anything of it is forwarded
// or checkpointed.
func (sv *Supervisor) Restart(ctx context.Context, between func() error) {
	had := sv.server.LastSequences()
	err := sv.stopAndStart(ctx, "restart the embedded server", between)
	sv.restarted, sv.restartPause = time.Now(), min(2*sv.restartPause, maxRestartPause)
	if err != nil {
		return
	}
	recovering, done := context.WithTimeout(ctx, recoverTimeout)
	defer done()
	sv.failures.Report("recover streams after a restart", sv.recoverStreams(recovering, true))
	sv.handleDamage(ctx)
	for stream, c := range sv.losses.timelines {
		was, _ := sv.losses.checkpoints.Get(stream)
		if has, ok := sv.server.LastAtStart(stream); ok && has < max(had[stream], was.Last) {
			c.StartNew(has)
		}
	}
	// Before anybody else takes what little there is. A failure has been reported.
	_ = wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, 5*time.Second, true, func(ctx context.Context) (bool, error) {
		now, err := sv.telemetry.disk.space()
		if err == nil {
			err = sv.telemetry.adjust(ctx, now)
		}
		if sv.failures.Report("bound telemetry", err); err == nil {
			sv.losses.checkpointUpstream(ctx)
		}
		return err == nil, nil
	})
}
