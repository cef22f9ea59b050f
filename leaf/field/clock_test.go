package field

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap/zaptest"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/leaf/clock/clocktest"
	"github.com/petiole-io/petiole/streams"
)

// meter is a driver of devices that are read twice after each start, at the machine's time.
type meter struct{ machine *clocktest.Machine }

func (meter) Protocols() []string { return []string{"meter"} }

func (m meter) Open(devices.Definition) (devices.Session, []devices.Problem, error) {
	return m, nil, nil
}

func (m meter) Run(ctx context.Context, deliver func(devices.Batch)) error {
	for i := range 2 {
		now := m.machine.Wall()
		deliver(devices.Batch{Reachable: true, Time: now, Readings: []devices.Reading{{Value: devices.Int(int64(i)), Quality: devices.Good, Time: now}}})
	}
	<-ctx.Done()
	return nil
}

var errReadOnly = errors.New("a meter is read only")

func (meter) Write(context.Context, int, string) (devices.Outcome, error) {
	return devices.Outcome{}, errReadOnly
}

func (meter) Command(context.Context, int, string) (devices.Outcome, error) {
	return devices.Outcome{}, errReadOnly
}

// TestFortyBootsIn1970 has a gateway without a battery, and without a link, boot forty times, now and
// then with its server, on one store. No two records have one key, all are marked, and they keep their order.
func TestFortyBootsIn1970(t *testing.T) {
	t.Parallel()
	const boots, perBoot = 40, 2
	s := startServer(t, natstest.LeafConf(t, "plant-a", "127.0.0.1:1"))
	r := newRigWith(t, s.streams(t, streams.LeafLimits{}))
	r.put(streams.Ref{Group: v1beta1.GroupName, Resource: "devicemodels", Namespace: "default", Name: "meter"}, "1",
		`{"metadata":{"namespace":"default","name":"meter"},"spec":{"protocol":"meter","properties":[{"name":"energy","type":"INT","accessMode":"ReadOnly"}]}}`)
	r.put(streams.Ref{Node: "plant-a-1", Group: v1beta1.GroupName, Resource: "devices", Namespace: "default", Name: "meter"}, "1",
		`{"metadata":{"namespace":"default","name":"meter","uid":"u"},"spec":{"deviceModelRef":{"name":"meter"},"nodeName":"plant-a-1","protocol":{"protocolName":"meter"},"properties":[{"name":"energy","visitors":{"protocolName":"meter"}}]}}`)
	dir := t.TempDir()
	for boot := range boots {
		r.machine.Boot(time.Unix(12, 0))
		f := New(Config{Site: "plant-a", Node: "plant-a-1", JS: r.js, Clock: r.clock(dir), Log: zaptest.NewLogger(t), Drivers: []devices.Driver{meter{&r.machine}}})
		ctx, cancel := context.WithCancel(r.ctx)
		done := make(chan error, 1)
		go func() { done <- f.Run(ctx) }()
		r.eventually(fmt.Sprintf("records of boot %d", boot), func() bool { return f.Stats().Records >= perBoot })
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if boot%4 == 0 {
			s.stop()
			s.start(t)
			r.js = s.streams(t, streams.LeafLimits{})
		}
	}

	c, err := r.js.OrderedConsumer(r.ctx, streams.SiteTelemetry, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{streams.LocalTelemetrySubject(kindSample, "default", "meter")},
	})
	if err != nil {
		t.Fatal(err)
	}
	var last devices.Samples
	for n := range boots * perBoot {
		m, err := c.Next(jetstream.FetchMaxWait(10 * time.Second))
		if err != nil {
			t.Fatal(err)
		}
		var is struct {
			Epoch    int64              `json:"epoch"`
			Sequence uint64             `json:"sequence"`
			Clock    *devices.ClockMark `json:"clock"`
			Samples  []struct {
				Time int64 `json:"time"`
			} `json:"samples"`
		}
		if err := json.Unmarshal(m.Data(), &is); err != nil {
			t.Fatal(err)
		}
		boot, sequence := n/perBoot, uint64(n%perBoot+1)
		if sequence != is.Sequence || sequence == 1 && is.Epoch <= last.Epoch || sequence > 1 && is.Epoch != last.Epoch {
			t.Fatalf("record %d of boot %d is %d/%d after %d/%d", sequence, boot, is.Epoch, is.Sequence, last.Epoch, last.Sequence)
		}
		if is.Clock == nil || is.Clock.State != devices.ClockUnset || m.Headers().Get(streams.HeaderClock) != devices.ClockUnset || is.Samples[0].Time > 3_600_000 {
			t.Fatalf("record %s with headers %v", m.Data(), m.Headers())
		}
		if sequence == 1 && last.Clock != nil && is.Clock.Boot == last.Clock.Boot {
			t.Fatalf("two boots are %s", is.Clock.Boot)
		}
		last.Epoch, last.Sequence, last.Clock = is.Epoch, is.Sequence, is.Clock
	}
}

// rightClock is the Until of a clock that is right.
func rightClock(t time.Time) (time.Duration, bool) { return time.Until(t), true }

// TestCommandsByTheRightTime sends commands to a gateway whose clock is in 1970, and then in 2038,
// before and after it knows the hub's time.
func TestCommandsByTheRightTime(t *testing.T) {
	now := time.Now()
	body := func(of string) []byte { return []byte(`{"id":"a","properties":{"p":"1"},` + of + `}`) }
	deadline := func(left time.Duration) []byte {
		return body(`"deadline":"` + now.Add(left).UTC().Format(time.RFC3339Nano) + `"`)
	}
	r := &rig{t: t}
	for _, wall := range []time.Time{time.Unix(12, 0), now.AddDate(12, 0, 0)} {
		r.machine.Boot(wall)
		c := r.clock(t.TempDir())
		if wall.Year() == 1970 {
			if _, err := parseCommand(deadline(time.Minute), now, c.Until); !errors.Is(err, errTimeUnknown) {
				t.Errorf("%s, the time is not known: %v", wall, err)
			}
		}
		if got, err := parseCommand(body(`"timeout":"20s"`), now, c.Until); err != nil || got.Deadline.Sub(now) != 20*time.Second {
			t.Errorf("%s, a timeout: %s, %v", wall, got.Deadline.Sub(now), err)
		}
		c.Measured(now, 0)
		if got, err := parseCommand(deadline(time.Minute), now, c.Until); err != nil || (got.Deadline.Sub(now)-time.Minute).Abs() > 20*time.Second {
			t.Errorf("%s, a deadline: %s, %v", wall, got.Deadline.Sub(now), err)
		}
		for _, late := range []time.Duration{-time.Second, -200 * 365 * 24 * time.Hour} {
			if got, err := parseCommand(deadline(late), now, c.Until); err != nil || got.Deadline.After(now) {
				t.Errorf("%s, a deadline that has passed: %s, %v", wall, got.Deadline.Sub(now), err)
			}
		}
		if _, err := parseCommand(deadline(time.Hour), now, c.Until); err == nil {
			t.Errorf("%s: a deadline in an hour is accepted", wall)
		}
	}
	for _, of := range []string{`"timeout":"0s"`, `"timeout":"11m"`, `"timeout":7`, `"timeout":"1m","deadline":"2026-11-26T00:00:00Z"`} {
		if _, err := parseCommand(body(of), now, rightClock); err == nil {
			t.Errorf("%s is accepted", of)
		}
	}
}

// TestStateLossUnderAClockThatIsSet: commands are refused for ten minutes and not until 2038.
func TestStateLossUnderAClockThatIsSet(t *testing.T) {
	now := time.Now()
	var s stateLoss
	if at := s.over(now.AddDate(12, 0, 0), now); at.Sub(now) != maxCommandTimeout {
		t.Errorf("commands are refused for %s", at.Sub(now))
	}
	if at := s.over(now.AddDate(12, 0, 0), now.Add(time.Minute)); at.Sub(now) != maxCommandTimeout {
		t.Errorf("it begins again: %s", at.Sub(now))
	}
	if at := s.over(now.Add(-time.Minute), now); at.Sub(now) != maxCommandTimeout-time.Minute {
		t.Errorf("another loss: %s", at.Sub(now))
	}
	if !s.over(time.Time{}, now).IsZero() {
		t.Error("there was no loss")
	}
}
