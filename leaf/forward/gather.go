package forward

import (
	"context"
	"fmt"
	"time"

	"github.com/petiole-io/petiole/leaf/transfer"
	"github.com/petiole-io/petiole/streams"
)

// gatherPoll is how often it is looked whether enough records wait for a commit.
const gatherPoll = time.Second

// gather waits until a commit's records wait, or for Config.Gather: the headers and the
// acknowledgement of a commit cost more than a sample, and compression needs repetition.
func gather(ctx context.Context, f *Forwarder, r *session) error {
	if f.cfg.Gather == 0 || f.cfg.Stream != streams.SiteTelemetry {
		return nil
	}
	r.size = transfer.BatchMessages
	for end := time.Now().Add(f.cfg.Gather); time.Now().Before(end); {
		info, err := r.consumer.Info(ctx)
		if err != nil {
			return fmt.Errorf("read consumer %s of %s: %w", streams.ForwardConsumer, f.cfg.Stream, err)
		}
		if info.NumPending >= transfer.BatchMessages {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(gatherPoll):
		}
	}
	return nil
}
