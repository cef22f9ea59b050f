package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/petiole-io/petiole/internal/logonce"
	"github.com/petiole-io/petiole/streams"
)

// creator creates and updates the streams of the site.
type creator struct {
	site           string
	telemetryBytes int64
	js             jetstream.JetStream
	failures       *logonce.Reporter
}

// ensure creates or updates the streams. It retries until ctx ends, since a nats-server outside of
// this process may start after the leaf, and a full disk may get room. If the disk is too full to
// update a stream, the stream is used as it is.
func (c *creator) ensure(ctx context.Context) error {
	return wait.PollUntilContextCancel(ctx, time.Second, true, func(ctx context.Context) (bool, error) {
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		err := c.ensureOnce(attempt)
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		var refused *jetstream.APIError
		if errors.As(err, &refused) && refused.Code != 500 && refused.Code != 503 {
			return false, err
		}
		c.failures.Report("wait for the site's JetStream", err)
		return err == nil, nil
	})
}

func (c *creator) ensureOnce(ctx context.Context) error {
	want := streams.LeafStreams(c.site, streams.LeafLimits{TelemetryBytes: c.telemetryBytes})
	for i := range want {
		have, err := c.js.Stream(ctx, want[i].Name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			if _, err := c.js.CreateStream(ctx, want[i]); err != nil {
				return fmt.Errorf("create stream %s: %w", want[i].Name, err)
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("look up stream %s: %w", want[i].Name, err)
		}
		cfg := have.CachedInfo().Config
		want[i].Metadata = maps.Clone(cfg.Metadata) // holds the timeline
		if want[i].Name == streams.SiteTelemetry && cfg.MaxBytes < want[i].MaxBytes {
			want[i].MaxBytes = cfg.MaxBytes // raised again when the disk has room
		}
		err = streams.Ensure(ctx, c.js, want[i:i+1])
		var refused *jetstream.APIError
		if err != nil && (!errors.As(err, &refused) || refused.Code != 500) {
			return err
		}
		c.failures.Report("update stream "+want[i].Name, err) // used as it is
	}
	return nil
}
