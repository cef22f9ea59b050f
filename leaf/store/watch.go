package store

import (
	"context"
	"errors"
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
func (k *Supervisor) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return k.watch(ctx) })
	group.Go(func() error { return k.compactor.run(ctx) })
	return group.Wait()
}

func (k *Supervisor) watch(ctx context.Context) error {
	tick := time.NewTicker(CheckInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			k.check(ctx)
		case <-k.desired.unreadable:
			if reason, _, err := k.desired.inspect(ctx); err == nil && reason != "" && k.server != nil {
				return fmt.Errorf("%w: %s", ErrRebuild, reason)
			}
		}
	}
}

// check examines the disk and the store once.
func (k *Supervisor) check(ctx context.Context) {
	asking, cancel := context.WithTimeout(ctx, checkWait)
	defer cancel()
	if k.server == nil {
		k.checkpointAll(asking)
		return
	}
	if after := k.idle.check(); after > 0 {
		k.log.Error("restarting the embedded server, it no longer tries to reach the hub", zap.Duration("after", after))
		k.counters.restarts.Inc()
		k.Restart(ctx, func() error { return nil })
		return
	}
	disk := k.telemetry.disk
	s, err := disk.space()
	if k.failures.Report("read the free space", err); err != nil {
		return
	}
	stalled := k.server.Health()
	if changed := k.degraded.set(streams.DegradedDiskFull, stalled != nil || disk.full(s)); changed {
		k.log.Warn("store changed", zap.Bool("stores", stalled == nil), zap.Int64("free", s.free), zap.NamedError("reason", stalled))
	}
	if stalled != nil {
		k.restartStalled(ctx, s)
		return
	}
	k.restartPause = minRestartPause
	k.checkpointAll(asking)
	err = k.telemetry.adjust(asking, s)
	if err != nil {
		// The disk may have become full since. A description of the stream that was written
		// in part would keep the server from recovering it.
		if now, e := disk.space(); e == nil && disk.full(now) {
			err = errors.Join(disk.releaseSpace(), k.telemetry.adjust(asking, now))
		}
	}
	k.failures.Report("bound telemetry", err)
	if s.free > disk.reserved(s) {
		k.failures.Report("allocate the reserve file", disk.allocateReserveFile(s))
	}
}

func (k *Supervisor) checkpointAll(ctx context.Context) {
	k.desired.checkpointChanged(ctx)
	k.losses.checkpointUpstream(ctx)
	k.failures.Report("checkpoint device state", k.losses.checkDeviceState(ctx, false))
}

// restartStalled restarts a server that stopped storing, if there is a chance that this helps:
// after a disk error a stream refuses every message until the restart.
func (k *Supervisor) restartStalled(ctx context.Context, s space) {
	if time.Since(k.restarted) < k.restartPause {
		return
	}
	if disk := k.telemetry.disk; disk.full(s) {
		k.failures.Report("release the reserve file", disk.releaseSpace())
		now, err := disk.space()
		if err != nil || disk.full(now) {
			return
		}
	}
	k.log.Warn("restarting the embedded server, its store has stopped accepting messages")
	k.counters.restarts.Inc()
	k.Restart(ctx, func() error { return nil })
}

// recoverTimeout bounds the recovery of streams after a restart: the disk may be full.
const recoverTimeout = 30 * time.Second

// Restart restarts the server and calls between while it does not run. Streams that the server
// does not recover are set up again, with their messages where these cannot be had again. A
// stream that holds less afterwards starts a new incarnation before anything of it is forwarded
// or checkpointed.
func (k *Supervisor) Restart(ctx context.Context, between func() error) {
	had := k.server.LastSequences()
	err := k.stopAndStart(ctx, "restart the embedded server", between)
	k.restarted, k.restartPause = time.Now(), min(2*k.restartPause, maxRestartPause)
	if err != nil {
		return
	}
	recovering, done := context.WithTimeout(ctx, recoverTimeout)
	defer done()
	k.failures.Report("recover streams after a restart", k.recoverStreams(recovering, true))
	k.handleDamage(ctx)
	for stream, c := range k.losses.timelines {
		was, _ := k.losses.checkpoints.Get(stream)
		if has, ok := k.server.LastAtStart(stream); ok && has < max(had[stream], was.Last) {
			c.StartNew(has)
		}
	}
	// Before anybody else takes what little there is. A failure has been reported.
	_ = wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, 5*time.Second, true, func(ctx context.Context) (bool, error) {
		now, err := k.telemetry.disk.space()
		if err == nil {
			err = k.telemetry.adjust(ctx, now)
		}
		if k.failures.Report("bound telemetry", err); err == nil {
			k.losses.checkpointUpstream(ctx)
		}
		return err == nil, nil
	})
}
