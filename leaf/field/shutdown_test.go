package field

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap/zaptest"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/modbus"
	"github.com/petiole-io/petiole/streams"
)

// TestStopWhileProblemsAreReported stops the field while the applier reports the problems of a
// device's properties and the first Event is being stored.
func TestStopWhileProblemsAreReported(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	f, stop := r.run()
	r.eventually("a host", func() bool { return f.host.Load() != nil })
	if err := r.js.DeleteStream(r.ctx, streams.SiteReported); err != nil {
		t.Fatal(err)
	}
	storing := make(chan struct{})
	once := sync.OnceFunc(func() { close(storing) })
	sub, err := r.js.Conn().Subscribe("local.reported.>", func(m *nats.Msg) { // a slow stream
		once()
		time.Sleep(100 * time.Millisecond)
		if err := m.Respond([]byte(`{"stream":"SITE_REPORTED","seq":1}`)); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	var properties []string
	for i := range 40 {
		properties = append(properties, fmt.Sprintf(`{"name":"p%d","pushMethod":{"http":{"hostName":""}}}`, i))
	}
	r.put(streams.Ref{Node: "plant-a-1", Group: v1beta1.GroupName, Resource: v1beta1.ResourceDevices, Namespace: "default", Name: "pump"}, "1",
		fmt.Sprintf(`{"metadata":{"namespace":"default","name":"pump"},"spec":{"deviceModelRef":{"name":"pump"},"nodeName":"plant-a-1",
		"protocol":{"protocolName":"modbus"},"properties":[%s]}}`, strings.Join(properties, ",")))
	select {
	case <-storing:
	case <-r.ctx.Done():
		t.Fatal("no problem is reported")
	}
	ended := make(chan struct{})
	go func() { defer close(ended); stop() }()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Fatal("the field does not stop")
	}
	if err := sub.Unsubscribe(); err != nil {
		t.Error(err)
	}
}

// TestNoCommandAfterStateWasLost rejects commands until the deadlines of all earlier ones have
// passed.
func TestNoCommandAfterStateWasLost(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.model()
	r.device("1", "7")
	var lostAt atomic.Int64
	lostAt.Store(time.Now().UnixNano())
	f := New(Config{
		Site: "plant-a", Node: "plant-a-1", JS: r.js, Clock: r.clock(r.t.TempDir()), Log: zaptest.NewLogger(t),
		Drivers: []devices.Driver{modbus.New(nil)}, StateLostAt: func() time.Time { return time.Unix(0, lostAt.Load()) },
	})
	ctx, cancel := context.WithCancel(r.ctx)
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	r.eventually("reported value", func() bool { return r.reported() == "7" })
	got := r.command("pump", `{"id":"a","properties":{"setpoint":"21"}}`)
	if got.Ack != devices.Failed || got.Reason != reasonStateLost {
		t.Errorf("command: %+v", got)
	}
	lostAt.Add(-int64(maxCommandTimeout))
	if got := r.command("pump", `{"id":"a","properties":{"setpoint":"21"}}`); got.Ack != devices.Applied {
		t.Errorf("command: %+v", got)
	}
	if got, want := r.slave.written(), "[7 21]"; got != want {
		t.Errorf("written: %s, want %s", got, want)
	}
}
