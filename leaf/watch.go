package leaf

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/streams"
)

// Run checks the disk and the store until ctx ends. It returns errRebuild if SITE_DESIRED is
// damaged.
func (k *storeSupervisor) Run(ctx context.Context) error {
	tick := time.NewTicker(checkInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			k.check(ctx)
		case <-k.unreadable:
			if reason, _, err := k.inspect(ctx); err == nil && reason != "" && k.host != nil {
				return fmt.Errorf("%w: %s", errRebuild, reason)
			}
		}
	}
}

// reportUnreadable tells the supervisor that messages of SITE_DESIRED could not be read. It does
// not block.
func (k *storeSupervisor) reportUnreadable() {
	select {
	case k.unreadable <- struct{}{}:
	default:
	}
}

// check examines the disk and the store once.
func (k *storeSupervisor) check(ctx context.Context) {
	asking, cancel := context.WithTimeout(ctx, statusWait)
	defer cancel()
	if k.host == nil {
		k.checkpointAll(asking)
		return
	}
	if k.restartIdle(ctx) {
		return
	}
	s, err := k.disk.space()
	if k.failures.Report("read the free space", err); err != nil {
		return
	}
	stalled := k.host.Health()
	if changed := k.degraded.set(streams.DegradedDiskFull, stalled != nil || k.disk.full(s)); changed {
		k.log.Warn("store changed", zap.Bool("stores", stalled == nil), zap.Int64("free", s.free), zap.NamedError("reason", stalled))
	}
	if stalled != nil {
		k.restartStalled(ctx, s)
		return
	}
	k.restartPause = minRestartPause
	k.checkpointAll(asking)
	err = k.boundTelemetry(asking, s)
	if err != nil {
		// The disk may have become full since. A description of the stream that was written
		// in part would keep the server from recovering it.
		if now, e := k.disk.space(); e == nil && k.disk.full(now) {
			err = errors.Join(k.disk.releaseSpace(), k.boundTelemetry(asking, now))
		}
	}
	k.failures.Report("bound telemetry", err)
	if s.free > k.disk.reserved(s) {
		k.failures.Report("allocate the reserve file", k.disk.allocateReserveFile(s))
	}
}

func (k *storeSupervisor) checkpointAll(ctx context.Context) {
	select {
	case <-k.complete:
		was, _ := k.checkpoints.Get(streams.SiteDesired)
		if s, err := k.js.Stream(ctx, streams.SiteDesired); err == nil && was.Last != s.CachedInfo().State.LastSeq {
			k.failures.Report("checkpoint "+streams.SiteDesired, k.saveCheckpoint(ctx, "", false))
		}
	default:
	}
	k.checkpointUpstream(ctx)
	k.failures.Report("checkpoint device state", k.checkDeviceState(ctx, false))
}

// restartStalled restarts a server that stopped storing, if there is a chance that this helps:
// after a disk error a stream refuses every message until the restart.
func (k *storeSupervisor) restartStalled(ctx context.Context, s space) {
	if time.Since(k.restarted) < k.restartPause {
		return
	}
	if k.disk.full(s) {
		k.failures.Report("release the reserve file", k.disk.releaseSpace())
		now, err := k.disk.space()
		if err != nil || k.disk.full(now) {
			return
		}
	}
	k.log.Warn("restarting the embedded server, its store has stopped accepting messages")
	k.counts.restarts.Inc()
	k.restart(ctx, func() error { return nil })
}

// recoverTimeout bounds the recovery of streams after a restart: the disk may be full.
const recoverTimeout = 30 * time.Second

// restart restarts the server and calls between while it does not run. Streams that the server
// does not recover are set up again, with their messages where these cannot be had again. A
// stream that holds less afterwards starts a new incarnation before anything of it is forwarded
// or checkpointed.
func (k *storeSupervisor) restart(ctx context.Context, between func() error) {
	had := k.host.LastSequences()
	err := k.stopAndStart(ctx, "restart the embedded server", between)
	k.restarted, k.restartPause = time.Now(), min(2*k.restartPause, maxRestartPause)
	if err != nil {
		return
	}
	recovering, done := context.WithTimeout(ctx, recoverTimeout)
	defer done()
	k.failures.Report("recover streams after a restart", k.recoverStreams(recovering, true))
	k.handleDamage(ctx)
	for stream, c := range k.timelines {
		was, _ := k.checkpoints.Get(stream)
		if has, ok := k.host.LastAtStart(stream); ok && has < max(had[stream], was.Last) {
			c.StartNew(has)
		}
	}
	// Before anybody else takes what little there is.
	yielding, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for yielding.Err() == nil {
		now, err := k.disk.space()
		if err == nil {
			err = k.boundTelemetry(yielding, now)
		}
		if k.failures.Report("bound telemetry", err); err == nil {
			k.checkpointUpstream(yielding)
			return
		}
		select {
		case <-yielding.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// boundTelemetry sets the limit of SITE_TELEMETRY to what the disk has room for. The oldest
// records are dropped; if the disk is as good as full, new ones are refused.
func (k *storeSupervisor) boundTelemetry(ctx context.Context, s space) error {
	stream, err := k.js.Stream(ctx, streams.SiteTelemetry)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look up stream %s: %w", streams.SiteTelemetry, err)
	}
	info := stream.CachedInfo()
	cfg := info.Config
	bound := k.disk.bound(s, int64(info.State.Bytes), cfg.MaxBytes, k.telemetryBytes)
	refused := cfg.MaxMsgSize == refusedSize
	refuse := k.disk.mustRefuse(s, bound, refused)
	if bound == cfg.MaxBytes && refuse == refused {
		return nil
	}
	switch {
	case refuse && !refused:
		k.log.Warn("telemetry is refused, the disk is full", zap.Int64("free", s.free))
	case bound < cfg.MaxBytes:
		k.log.Warn("telemetry yields to the rest of the store", zap.Int64("free", s.free), zap.Int64("bound", bound))
	default:
		k.log.Info("telemetry may grow again", zap.Int64("free", s.free), zap.Int64("bound", bound))
	}
	cfg.MaxBytes, cfg.MaxMsgSize = bound, -1
	if refuse {
		cfg.MaxMsgSize = refusedSize
	}
	if _, err := k.js.UpdateStream(ctx, cfg); err != nil {
		return fmt.Errorf("bound %s: %w", streams.SiteTelemetry, err)
	}
	return nil
}
