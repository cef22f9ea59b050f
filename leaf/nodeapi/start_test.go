package nodeapi

import (
	"context"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/petiole-io/petiole/streams"
)

// TestStartTriesAgain: a stream that cannot be read when the leaf starts, as on a machine that is
// too busy to answer in time, does not end it.
func TestStartTriesAgain(t *testing.T) {
	for _, stream := range []string{streams.SiteReported, streams.SiteDesired} {
		t.Run(stream, func(t *testing.T) {
			l := newLeaf(t)
			must(t, l.js.DeleteStream(t.Context(), stream))
			core, logs := observer.New(zap.WarnLevel)
			a := New(Config{Site: site, Node: node, JS: l.js, DataDir: t.TempDir(), Listen: "127.0.0.1:0", Log: zap.New(core)})
			ctx, cancel := context.WithCancel(context.Background())
			ended := make(chan error, 1)
			go func() { ended <- a.Run(ctx) }()
			defer func() {
				cancel()
				must(t, <-ended)
			}()
			eventually(t, "the failure is logged", func() bool { return logs.FilterMessage("operation fails and is retried").Len() == 1 })
			must(t, streams.Ensure(t.Context(), l.js, streams.LeafStreams(site, streams.LeafLimits{})))
			eventually(t, "the API is ready", func() bool {
				select {
				case <-a.Ready():
					return true
				default:
					return false
				}
			})
		})
	}
}
