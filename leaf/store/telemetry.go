package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/streams"
)

// telemetryLimit makes SITE_TELEMETRY yield to the rest of the store.
type telemetryLimit struct {
	js   jetstream.JetStream
	disk disk
	// configured is the limit of the stream in bytes while the disk has room.
	configured int64
	// unwritten is set after a change failed: nats-server 2.15.2 then reports the new configuration
	// as if it were stored (docs/upstream.md, 26).
	unwritten bool
	log       *zap.Logger
}

// adjust sets the limit of SITE_TELEMETRY to what the disk has room for. The oldest
// records are dropped; if the disk is as good as full, new ones are refused. If the disk is full,
// the reserve file makes room for the new configuration.
func (t *telemetryLimit) adjust(ctx context.Context, s space) error {
	stream, err := t.js.Stream(ctx, streams.SiteTelemetry)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look up stream %s: %w", streams.SiteTelemetry, err)
	}
	info := stream.CachedInfo()
	cfg := info.Config
	bound := t.disk.bound(s, int64(info.State.Bytes), cfg.MaxBytes, t.configured)
	refused := cfg.MaxMsgSize == refusedSize
	refuse := t.disk.mustRefuse(s, bound, refused)
	same := bound == cfg.MaxBytes && refuse == refused
	if same && !t.unwritten {
		return nil
	}
	switch {
	case same: // the change has been logged
	case refuse && !refused:
		t.log.Warn("telemetry is refused, the disk is full", zap.Int64("free", s.free))
	case bound < cfg.MaxBytes:
		t.log.Warn("telemetry yields to the rest of the store", zap.Int64("free", s.free), zap.Int64("bound", bound))
	default:
		t.log.Info("telemetry may grow again", zap.Int64("free", s.free), zap.Int64("bound", bound))
	}
	cfg.MaxBytes, cfg.MaxMsgSize = bound, -1
	if refuse {
		cfg.MaxMsgSize = refusedSize
	}
	if t.disk.full(s) {
		if err := t.disk.releaseSpace(); err != nil {
			return fmt.Errorf("make room for the configuration of %s: %w", streams.SiteTelemetry, err)
		}
	}
	_, err = t.js.UpdateStream(ctx, cfg)
	if t.unwritten = err != nil; t.unwritten {
		return fmt.Errorf("bound %s: %w", streams.SiteTelemetry, err)
	}
	return nil
}
