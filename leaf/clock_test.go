package leaf

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/streams"
)

// sample stores a sample as the device worker does.
func (s *site) sample(t testing.TB, epoch int64) {
	t.Helper()
	mark := s.clock.Mark()
	body, err := json.Marshal(&devices.Samples{
		Device: devices.Ref{Namespace: "default", Name: "pump"}, RecordNumber: devices.RecordNumber{Epoch: epoch, Sequence: 1}, Clock: mark,
		Samples: []devices.Sample{{Property: "p", Value: devices.Int(1), Quality: devices.Good, Time: s.machine.Wall().UnixMilli()}},
	})
	if err != nil {
		t.Fatal(err)
	}
	msg := nats.NewMsg(streams.LocalTelemetrySubject("sample", "default", "pump"))
	if msg.Data = body; mark != nil {
		msg.Header.Set(streams.HeaderClock, mark.State)
	}
	if _, err := s.js.PublishMsg(t.Context(), msg); err != nil {
		t.Fatal(err)
	}
}

// TestTimesAreCorrected boots in 1970 while the line is cut: once without ever seeing the hub, once
// until the line is back, after an hour. Then NTP sets the clock. What arrives has the right times
// where they are known, in order.
func TestTimesAreCorrected(t *testing.T) {
	t.Parallel()
	s, ctx := newSite(t)
	s.line.Cut()
	s.machine.Boot(time.Unix(12, 0))
	s.start(t, ctx)
	s.sample(t, 1)
	s.stop()
	s.machine.Boot(time.Unix(12, 0))
	s.start(t, ctx)
	s.sample(t, 2)
	s.machine.Pass(time.Hour)
	s.sample(t, 3)
	if s.clock.State() != "unset" {
		t.Fatalf("the clock is %s", s.clock.State())
	}
	respond(t, s)
	s.line.Heal()
	s.up(t)
	polltest.Eventually(t, "the hub's time", func() bool { _, _, known := s.clock.Now(); return known })
	s.sample(t, 4)
	s.machine.Synchronize(time.Now())
	s.sample(t, 5)

	c, err := s.hub.OrderedConsumer(ctx, streams.Telemetry("plant-a"), jetstream.OrderedConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	for n, want := range []struct {
		state string
		age   time.Duration
	}{{state: devices.ClockUnset}, {devices.ClockCorrected, time.Hour}, {state: devices.ClockCorrected}, {state: devices.ClockCorrected}, {}} {
		m, err := c.Next(jetstream.FetchMaxWait(time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		var is struct {
			Epoch   int                `json:"epoch"`
			Clock   *devices.ClockMark `json:"clock"`
			Samples []struct {
				Time int64 `json:"time"`
			} `json:"samples"`
		}
		if err := json.Unmarshal(m.Data(), &is); err != nil {
			t.Fatal(err)
		}
		if is.Epoch != n+1 || m.Headers().Get(streams.HeaderClock) != want.state || (is.Clock == nil) != (want.state == "") {
			t.Fatalf("record %d with headers %v: %s", n+1, m.Headers(), m.Data())
		}
		at := time.UnixMilli(is.Samples[0].Time)
		if off := time.Since(at) - want.age; want.state != devices.ClockUnset && off.Abs() > time.Minute {
			t.Errorf("record %d is %s from its time: %s", n+1, off, m.Data())
		}
		if want.state == devices.ClockUnset && at.Year() != 1970 {
			t.Errorf("a time was invented: %s", fmt.Sprint(at))
		}
	}
}
