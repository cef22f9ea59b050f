package fabric

import (
	"context"
	"testing"
	"time"

	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/streams"
)

// TestSlowestLineConnects has a leaf connect as deployed, with TLS, on a line of 9,600 bit/s with
// 600 ms: the handshakes take longer than nats-server waits by default.
func TestSlowestLineConnects(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	w := newWorld(t, "plant-a")
	w.hubJetStream(t, ctx)
	line := natstest.NewLine(t, w.hub.LeafListen)
	line.Delay(300*time.Millisecond, 0)
	line.Limit(1200)
	start := time.Now()
	atSite := w.startLeaf(t, ctx, "plant-a", line.Addr())
	polltest.Within(t, 2*time.Minute, "the hub answers", func() bool {
		_, err := atSite.Request(streams.ResetSubject("plant-a"), nil, 10*time.Second)
		return err == nil
	})
	t.Logf("MEASURED start → the hub answers: %s; %d bytes came down, %d went up",
		time.Since(start).Round(10*time.Millisecond), line.Moved(natstest.Downward), line.Moved(natstest.Upward))
}
