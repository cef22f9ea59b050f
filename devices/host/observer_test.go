package host

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap/zaptest"
	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/devicestest"
	"github.com/petiole-io/petiole/devices/host/hosttest"
	"github.com/petiole-io/petiole/devices/internal/report"
	"github.com/petiole-io/petiole/devices/internal/stats"
	"github.com/petiole-io/petiole/internal/logonce"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func ref(name string) *corev1.LocalObjectReference { return &corev1.LocalObjectReference{Name: name} }

// states of a device, from its first answer to its end.
func TestDeviceStates(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.driver.values["a"] = "1"
	b.online()
	now := time.Now()
	b.driver.say(devices.Batch{Reachable: true, Time: now, Readings: []devices.Reading{{Point: 1, Quality: devices.Bad, Reason: "IllegalAddress", Time: now}}})
	b.eventually("degraded", func() bool {
		s := b.status()
		return s.State == devices.StateDegraded && strings.Contains(s.Extensions.Data["message"].(string), "1 of 3 properties: b (IllegalAddress)")
	})
	b.driver.values["b"] = "2"
	b.driver.read()
	b.eventually("online", func() bool { return b.status().State == v1beta1.StateOnline })
	b.driver.say(devices.Batch{Reachable: true, Degraded: true, Reason: "SelfTest", Time: time.Now()})
	b.eventually("degraded by itself", func() bool {
		s := b.status()
		return s.State == devices.StateDegraded && s.Extensions.Data["reason"] == "SelfTest"
	})
	b.driver.read()
	b.eventually("online", func() bool { return b.status().State == v1beta1.StateOnline })
	// One request of several that is not answered is not the device.
	now = time.Now()
	one := devices.Batch{Reason: "Timeout", Time: now, Readings: []devices.Reading{{Point: 1, Quality: devices.Bad, Reason: "Timeout", Time: now}}}
	b.driver.say(one)
	b.driver.say(devices.Batch{Reachable: true, Time: now, Readings: []devices.Reading{{Point: 0, Value: devices.Int(2), Quality: devices.Good, Time: now}}})
	b.eventually("degraded", func() bool { return b.status().State == devices.StateDegraded && b.reported("a").Value == "2" })
	b.driver.say(one)
	now = time.Now()
	b.driver.say(devices.Batch{Reason: "Timeout", Time: now, Readings: []devices.Reading{{Point: 0, Quality: devices.Bad, Reason: "Timeout", Time: now}}})
	b.eventually("offline", func() bool {
		return b.status().State == v1beta1.StateOffline && b.reported("a").Metadata["quality"] == "bad"
	})
	b.driver.set(func() { b.driver.away = true })
	b.driver.read()
	now = time.Now()
	b.driver.say(devices.Batch{Reachable: true, Time: now, Readings: []devices.Reading{{Point: 0, Value: devices.Int(2), Quality: devices.Good, Time: now}}})
	b.eventually("online at once", func() bool { return b.status().State == v1beta1.StateOnline })
	b.driver.read()
	b.eventually("offline", func() bool {
		return b.status().State == v1beta1.StateOffline && b.reported("a").Metadata["quality"] == "bad"
	})
	b.eventually("last online is recorded", func() bool {
		return strings.Contains(string(b.state.Snapshot()["ns/d"]), `"lastOnline":`+strconv.FormatInt(now.UnixMilli(), 10))
	})
	last := b.status().LastOnlineTime
	if v := b.reported("a"); v.Value != "2" || v.Metadata["timestamp"] == "" || last == "" {
		t.Fatalf("%+v %s", v, last)
	}
	b.stop()
	b.driver.set(func() { b.driver.away, b.driver.deliver = true, nil })
	b.start()
	b.apply()
	b.eventually("session", b.running)
	b.driver.read()
	b.eventually("offline after restart", func() bool {
		return b.host.Stats().Devices[v1beta1.StateOffline] == 1 && b.status().LastOnlineTime == last
	})
	b.device.Annotations = map[string]string{devices.AnnotationDisabled: "true"}
	b.apply()
	b.eventually("disabled", func() bool { return b.status().State == devices.StateDisabled && !b.running() })
	b.device.Annotations = nil
	b.driver.set(func() { b.driver.away = false })
	b.online()
}

// A device that goes offline without a word about its points leaves their values
// uncertain, not good.
func TestOfflineValuesAreDoubted(t *testing.T) {
	b := newBench(t)
	b.driver.values["a"] = "1"
	b.online()
	b.driver.say(devices.Batch{Reason: "Gone", Time: time.Now()})
	doubted := func(reason string) {
		t.Helper()
		b.eventually("uncertain: "+reason, func() bool {
			m := b.reported("a")
			return m.Metadata["quality"] == "uncertain" && m.Metadata["reason"] == reason && m.Value == "1" && m.Metadata["age"] != ""
		})
	}
	doubted(devices.ReasonOffline)
	b.online()
	b.device.Annotations = map[string]string{devices.AnnotationDisabled: "true"}
	b.apply()
	doubted(devices.ReasonDisabled)
}

// A session that ends by itself leaves the device offline and is opened again.
func TestSessionThatEnds(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.driver.crash = make(chan error)
	b.driver.values["a"] = "1"
	b.online()
	b.driver.crash <- errors.New("mapper is gone")
	b.eventually("offline", func() bool {
		s := b.status()
		return s.State == v1beta1.StateOffline && s.Extensions.Data["reason"] == devices.ReasonSessionEnded && b.reported("a").Metadata["quality"] == "uncertain"
	})
	b.eventually("opened again", b.running)
	b.driver.read()
	b.eventually("online", func() bool {
		return b.status().State == v1beta1.StateOnline && b.reported("a").Metadata["quality"] == "good"
	})
	b.driver.crash <- nil
	b.eventually("offline", func() bool { return b.status().State == v1beta1.StateOffline })
	b.device.Spec.Properties[1].CollectCycle = 7 // a change does not wait for the pause
	b.online()
}

// Properties that are not reported to the cloud cause no status.
func TestQuietPropertiesMakeNoStatus(t *testing.T) { synctest.Test(t, quietProperties) }

func quietProperties(t *testing.T) {
	b := newBench(t)
	b.online()
	b.eventually("status", func() bool { return b.statuses() == 1 })
	before := b.host.Stats().Samples
	for i := range 50 {
		now := time.Now()
		b.driver.say(devices.Batch{Reachable: true, Time: now, Readings: []devices.Reading{{Point: 2, Value: devices.Int(int64(i)), Quality: devices.Good, Time: now}}})
	}
	b.eventually("samples", func() bool { return b.host.Stats().Samples == before+50 })
	b.intervals(3)
	if n := b.statuses(); n != 1 {
		t.Fatal(n)
	}
}

// epochCounter counts the epochs of a recorder.
type epochCounter struct {
	recorder
	n int
}

func (c *epochCounter) StartEpoch() {
	c.n++
	c.recorder.StartEpoch()
}

// Whatever drivers deliver and however the wall clock is set, the times of a
// property's samples do not decrease within an epoch (I29), sequences have no gaps and
// the reported value is the last good one.
func TestTimesDoNotDecrease(t *testing.T) {
	log := zaptest.NewLogger(t)
	rapid.Check(t, func(t *rapid.T) {
		sink := &recordingSink{}
		h, err := New(Config{Node: "n", Sink: sink, State: &devicestest.State{}, Clock: &hosttest.Clock{}, Log: log})
		if err != nil {
			t.Fatal(err)
		}
		ref := devices.Ref{Namespace: "ns", Name: "d"}
		failures := logonce.New(log)
		epochs := &epochCounter{recorder: report.NewRecorder(ref, "n", h.clock, sink, &h.room, 0, h.counters, failures, log)}
		w := assemble(h, ref, epochs, failures, log)
		epochs.StartEpoch()
		w.facts.SetDefinition(devices.Definition{Points: []devices.Point{{Name: "a", Type: v1beta1.INT}, {Name: "b", Type: v1beta1.INT}}})
		base := time.Now().Add(-time.Hour).Round(0) // without the monotonic clock, as from mappers
		var seen [2]time.Time
		var good [2]string
		for step := range rapid.IntRange(1, 60).Draw(t, "steps") {
			set := rapid.IntRange(0, 10).Draw(t, "set") == 0
			if set {
				w.observer.clock.Offset = time.Hour // the next look finds the clock set back
				base = base.Add(-time.Minute)
			}
			var rs []devices.Reading
			back := false
			for p := range 2 {
				at := base.Add(time.Duration(step*20+rapid.IntRange(-50, 50).Draw(t, "at")) * time.Millisecond)
				back = back || at.Before(seen[p])
				r := devices.Reading{Point: p, Value: devices.Int(int64(step)), Quality: devices.Good, Time: at}
				if rapid.IntRange(0, 3).Draw(t, "bad") == 0 {
					r = devices.Reading{Point: p, Quality: devices.Bad, Reason: "x", Time: at}
				}
				rs = append(rs, r)
			}
			was := epochs.n
			w.observer.observe(devices.Batch{Readings: rs, Reachable: true, Time: base})
			if set && back && epochs.n == was {
				t.Fatal("not numbered anew")
			}
			if epochs.n != was {
				seen = [2]time.Time{}
			}
			for p, r := range rs {
				if r.Time.Before(seen[p]) {
					continue
				}
				if seen[p] = r.Time; r.Quality == devices.Good {
					good[p] = r.Value.String()
				}
				if q := w.facts.Twins[p].Quality; q != r.Quality {
					t.Fatalf("%s, want %s", q, r.Quality)
				}
			}
			if w.facts.Twins[0].Text != good[0] || w.facts.Twins[1].Text != good[1] {
				t.Fatalf("%q %q, want %q", w.facts.Twins[0].Text, w.facts.Twins[1].Text, good)
			}
		}
		var epoch int64
		var sequence uint64
		times := map[string]int64{}
		stopped, cancel := context.WithCancel(context.Background())
		cancel()
		w.records.Run(stopped)
		for _, s := range sink.samples {
			if s.Epoch != epoch {
				if s.Epoch < epoch {
					t.Fatalf("epoch %d after %d", s.Epoch, epoch)
				}
				epoch, sequence, times = s.Epoch, 0, map[string]int64{}
			}
			if sequence++; s.Sequence != sequence {
				t.Fatalf("sequence %d, want %d", s.Sequence, sequence)
			}
			for _, x := range s.Samples {
				if x.Time < times[x.Property] || (x.Quality == devices.Bad) != (x.Value.Kind() == devices.None) {
					t.Fatalf("%+v after %d", x, times[x.Property])
				}
				times[x.Property] = x.Time
			}
		}
	})
}

// Flapping does not flood the API server with events.
func TestEventsAreBounded(t *testing.T) {
	b := newBench(t)
	b.online()
	for i := range 50 {
		b.driver.set(func() { b.driver.away = i%2 == 0 })
		b.driver.read()
	}
	b.eventually("all are seen", func() bool { s := b.host.Stats(); return s.Events+s.SuppressedEvents >= 51 })
	const burst = 10 // and one more while the test runs
	if n := b.host.Stats().Events; n > burst+1 {
		t.Fatal(n)
	}
}

// The counters have every label, and a device that is gone is not counted.
func TestStats(t *testing.T) {
	b := newBench(t)
	b.driver.values["b"] = "2"
	b.desire("1")
	b.eventually("session", b.running)
	b.driver.read()
	b.eventually("applied", func() bool {
		s := b.host.Stats()
		return s.Writes[devices.Applied] == 1 && s.Devices[v1beta1.StateOnline] == 1
	})
	s := b.host.Stats()
	if len(s.Devices) != len(stats.States) || len(s.Writes) != len(stats.Acks) || len(s.Commands) != len(stats.Acks) || s.Readings == 0 {
		t.Fatalf("%+v", s)
	}
	must(t, b.host.DeleteDevice(t.Context(), "ns", "d", "u"))
	for state, n := range b.host.Stats().Devices {
		if n != 0 {
			t.Fatal(state, n)
		}
	}
}
