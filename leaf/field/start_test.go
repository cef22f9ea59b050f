package field

import (
	"context"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/modbus"
	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/streams"
)

// TestStartTriesAgain: a stream that cannot be opened when the leaf starts does not end it.
func TestStartTriesAgain(t *testing.T) {
	s := startServer(t, natstest.LeafConf(t, "plant-a", "127.0.0.1:1"))
	r := newRigWith(t, s.streams(t, streams.LeafLimits{}))
	if err := r.js.DeleteStream(r.ctx, streams.SiteTelemetry); err != nil {
		t.Fatal(err)
	}
	core, logs := observer.New(zap.WarnLevel)
	f := New(Config{Site: "plant-a", Node: "plant-a-1", JS: r.js, Clock: r.clock(t.TempDir()), Log: zap.New(core), Drivers: []devices.Driver{modbus.New(nil)}})
	ctx, cancel := context.WithCancel(r.ctx)
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	polltest.Eventually(t, "the failure is logged", func() bool { return logs.FilterMessage("operation fails and is retried").Len() == 1 })
	if err := streams.Ensure(r.ctx, r.js, streams.LeafStreams("plant-a", streams.LeafLimits{})); err != nil {
		t.Fatal(err)
	}
	polltest.Eventually(t, "the devices are operated", func() bool { return f.host.Load() != nil })
}
