package mqtt

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"go.uber.org/zap/zaptest"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// connect returns a connection to a server of its own.
func connect(t *testing.T) *nats.Conn {
	t.Helper()
	s, err := server.NewServer(&server.Options{DontListen: true, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("nats-server is not ready")
	}
	nc, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// TestLastChangeIsPublished makes two changes at once, and then none: the second one is also
// published, after documentInterval.
func TestLastChangeIsPublished(t *testing.T) {
	nc := connect(t)
	b := New(Config{
		Node: "n", Conn: nc, Log: zaptest.NewLogger(t),
		Command:           func(context.Context, devices.Command) devices.CommandResult { return devices.CommandResult{} },
		OperatedElsewhere: func(string, string) bool { return false },
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	documents, err := nc.SubscribeSync(devicePrefix + "*.*" + "." + twinDocument)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{"p1", "p2", "p3"}
	for _, name := range names {
		b.Apply(&v1beta1.Device{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name},
			Spec:       v1beta1.DeviceSpec{Properties: []v1beta1.DeviceProperty{{Name: "p"}}},
		})
	}
	for round := range 3 { // a pause between rounds: none waits then
		begin := time.Now()
		for i := range int64(2) {
			for _, name := range names {
				b.Samples(&devices.Samples{
					Device:  devices.Ref{Namespace: "ns", Name: name},
					Samples: []devices.Sample{{Property: "p", Value: devices.Int(int64(10*round) + i), Quality: devices.Good, Time: i}},
				})
			}
		}
		last := map[string]string{}
		for len(last) < len(names) {
			m, err := documents.NextMsg(5 * time.Second)
			if err != nil {
				t.Fatalf("round %d: the last change is published of %v only: %v", round, last, err)
			}
			var body struct {
				Twin map[string]struct{ Current twin }
			}
			if err := json.Unmarshal(m.Data, &body); err != nil {
				t.Fatal(err)
			}
			if v := body.Twin["p"].Current.Actual.Value; v != nil && *v == devices.Int(int64(10*round)+1).String() {
				last[m.Subject] = *v
			}
		}
		if d := time.Since(begin); d > documentInterval+2*time.Second { // 2 s for a busy machine
			t.Errorf("round %d: published after %s", round, d)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.delayed) != 0 {
		t.Errorf("%d devices still wait", len(b.delayed))
	}
}
