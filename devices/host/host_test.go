package host

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

func TestNewNeedsSinkAndState(t *testing.T) {
	if _, err := New(Config{Drivers: []devices.Driver{&fake{}, &fake{}}}); err == nil || strings.Count(err.Error(), "\n") != 3 {
		t.Fatal(err)
	}
}

// Nothing is written before it is recorded that it may be: while the state cannot be
// saved the value waits.
func TestNothingIsWrittenUnrecorded(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.apply()
	b.eventually("session", b.running)
	b.state.SetFail(errors.New("disk full"))
	b.desire("1")
	b.eventually("pending", func() bool {
		b.driver.say(devices.Batch{Reachable: true, Time: time.Now()})
		return b.sink.ack("a") == devices.Pending
	})
	if b.driver.written() != "" {
		t.Fatal(b.driver.written())
	}
	b.state.SetFail(nil)
	b.eventually("applied", func() bool { return b.sink.ack("a") == devices.Applied })
}

// Killed between write and record, the host finds the value there and does not write
// again.
func TestCrashAfterWriteWritesOnce(t *testing.T) {
	b := newBench(t)
	b.driver.entered, b.driver.gate = make(chan struct{}), make(chan struct{})
	b.desire("1")
	<-b.driver.entered // the intent is recorded now
	left := b.state.Snapshot()
	if !strings.Contains(string(left["ns/d"]), `"pending"`) {
		t.Fatalf("%s", left)
	}
	close(b.driver.gate)
	b.driver.mu.Lock()
	b.driver.entered = nil
	b.driver.mu.Unlock()
	b.eventually("written", func() bool { return b.driver.written() == "a=1" })
	b.stop()
	b.state.Restore(left) // as a kill would have left it
	b.start()
	b.apply()
	b.eventually("session", b.running)
	b.driver.say(devices.Batch{Reachable: true, Time: time.Now()})
	b.eventually("applied", func() bool { return b.sink.ack("a") == devices.Applied })
	if b.driver.written() != "a=1" {
		t.Fatal(b.driver.written())
	}
}

// Of values that come while one is being written only the newest is written after it;
// the one that runs is audited as superseded.
func TestNewestWins(t *testing.T) {
	b := newBench(t)
	b.driver.entered, b.driver.gate, b.driver.deaf = make(chan struct{}), make(chan struct{}), true
	b.desire("1")
	<-b.driver.entered
	for _, v := range []string{"2", "3", "4"} {
		b.desire(v)
	}
	b.eventually("taken over", func() bool {
		b.driver.say(devices.Batch{Reachable: true, Time: time.Now()})
		return b.observed("a") == "4"
	})
	b.driver.gate <- struct{}{}
	<-b.driver.entered
	b.driver.gate <- struct{}{}
	b.eventually("written", func() bool { return b.driver.written() == "a=1 a=4" })
	b.eventually("audit", func() bool {
		b.sink.mu.Lock()
		defer b.sink.mu.Unlock()
		n := map[devices.Ack]int{}
		for _, a := range b.sink.audits {
			n[a.Ack]++
		}
		return n[devices.Superseded] >= 1 && n[devices.Applied] == 1 && b.sink.audits[len(b.sink.audits)-2].Written
	})
}

// Only what reads differently restarts a session: not labels, not desired values, not
// the status.
func TestSessionsSurviveIrrelevantChanges(t *testing.T) {
	b := newBench(t)
	b.apply()
	b.eventually("session", b.running)
	b.device.Labels = map[string]string{"x": "y"}
	b.device.Status = &v1beta1.CustomizedValue{Data: map[string]any{"state": "online"}}
	b.desire("1")
	b.desire("2")
	b.eventually("written", func() bool { return strings.HasSuffix(b.driver.written(), "a=2") })
	if b.driver.open != 1 {
		t.Fatalf("opened %d times", b.driver.open)
	}
	b.device.Spec.Properties[1].CollectCycle = 5
	b.apply()
	b.eventually("reopened", func() bool {
		b.driver.mu.Lock()
		defer b.driver.mu.Unlock()
		return b.driver.open == 2 && b.driver.running == 1
	})
}

// Statuses are throttled and the last one is the newest; samples are not throttled.
// What is not reported to the cloud is sampled all the same.
func TestStatusIsThrottledAndSamplesAreNot(t *testing.T) {
	synctest.Test(t, statusIsThrottledAndSamplesAreNot)
}

func statusIsThrottledAndSamplesAreNot(t *testing.T) {
	b := newBench(t)
	b.apply()
	b.eventually("session", b.running)
	const n = 300
	for i := range n {
		now := time.Now()
		b.driver.say(devices.Batch{Reachable: true, Time: now, Readings: []devices.Reading{{Point: 0, Value: devices.Int(int64(i)), Quality: devices.Good, Time: now}, {Point: 2, Value: devices.Int(5), Quality: devices.Good, Time: now}}})
	}
	b.eventually("newest", func() bool {
		b.sink.mu.Lock()
		defer b.sink.mu.Unlock()
		l := len(b.sink.statuses)
		return l > 0 && b.sink.statuses[l-1].Status.Twins[0].Reported.Value == strconv.Itoa(n-1)
	})
	b.eventually("samples", func() bool { return b.sink.values() == 2*n })
	b.sink.mu.Lock()
	defer b.sink.mu.Unlock()
	for i := 1; i < len(b.sink.when); i++ {
		if d := b.sink.when[i].Sub(b.sink.when[i-1]); d < 19*time.Millisecond {
			t.Fatalf("%s between statuses", d)
		}
	}
	if len(b.sink.statuses[len(b.sink.statuses)-1].Status.Twins) != 1 {
		t.Fatal("reportToCloud")
	}
}

// A sink that takes nothing for a while loses nothing that fits, and later the newest
// status.
func TestSinkAway(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.apply()
	b.eventually("session", b.running)
	b.sink.mu.Lock()
	b.sink.fail = errors.New("away")
	b.sink.mu.Unlock()
	for i := range 50 {
		now := time.Now()
		b.driver.say(devices.Batch{Reachable: true, Time: now, Readings: []devices.Reading{{Point: 0, Value: devices.Int(int64(i)), Quality: devices.Good, Time: now}}})
	}
	b.sink.mu.Lock()
	b.sink.fail = nil
	b.sink.mu.Unlock()
	b.eventually("samples", func() bool { return b.sink.values() == 50 })
	b.eventually("status", func() bool {
		b.sink.mu.Lock()
		defer b.sink.mu.Unlock()
		l := len(b.sink.statuses)
		return l > 0 && b.sink.statuses[l-1].Status.Twins[0].Reported.Value == "49"
	})
	b.sink.mu.Lock()
	defer b.sink.mu.Unlock()
	for i, s := range b.sink.samples {
		if s.Sequence != uint64(i+1) || s.Dropped != 0 {
			t.Fatal(i, s)
		}
	}
}

// A device bound elsewhere, or recreated, is not the one that was here.
func TestMovedAndRecreated(t *testing.T) {
	b := newBench(t)
	b.desire("1")
	b.eventually("written", func() bool { return b.driver.written() == "a=1" })
	b.device.UID = "u2"
	b.driver.set(func() { b.driver.values["a"] = "0" })
	b.apply()
	b.eventually("written again", func() bool { return b.driver.written() == "a=1 a=1" })
	b.eventually("session", b.running)
	b.device.Spec.NodeName = "other"
	b.apply()
	b.eventually("stopped", func() bool { return !b.running() })
	b.eventually("forgotten", func() bool { return len(b.state.Snapshot()) == 0 })
}

// A device is deleted when what was recorded of it is forgotten, and not before.
func TestDeleteIsNoSuccessBeforeTheStateIsForgotten(t *testing.T) {
	b := newBench(t)
	b.desire("1")
	b.eventually("written", func() bool { return b.driver.written() == "a=1" })
	b.state.SetFail(errors.New("disk full"))
	if err := b.host.DeleteDevice(t.Context(), "ns", "d", ""); err == nil {
		t.Error("deleted, and its state is still there")
	}
	b.state.SetFail(nil)
	if err := b.host.DeleteDevice(t.Context(), "ns", "d", ""); err != nil {
		t.Error(err)
	}
	if n := len(b.state.Snapshot()); n != 0 {
		t.Errorf("%d keys are left", n)
	}
}

func TestCallsAfterStop(t *testing.T) {
	b := newBench(t)
	b.apply()
	b.stop()
	if err := b.host.ApplyDevice(context.Background(), b.device, "1"); !errors.Is(err, ErrStopped) {
		t.Fatal(err)
	}
	if err := b.host.Run(context.Background()); err == nil {
		t.Fatal("runs twice")
	}
}

// TestLateConfirmer: the write of a desired value by a session that decides itself how long it
// waits has a limit of its beginning, and no deadline.
func TestLateConfirmer(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	writes := make(chan lateWrite, 1)
	b.driver.wrap = func(s devices.Session) devices.Session { return lateSession{s, writes} }
	b.desire("1")
	b.eventually("written", func() bool { return b.driver.written() == "a=1" })
	if w := <-writes; w.deadline || w.always || time.Until(w.begin) > writeLimit || w.value != "1" {
		t.Errorf("%+v", w)
	}
}

type lateWrite struct {
	begin            time.Time
	value            string
	deadline, always bool
}

type lateSession struct {
	devices.Session
	writes chan lateWrite
}

func (s lateSession) WriteBefore(ctx context.Context, begin time.Time, point int, value string, always bool) (devices.Outcome, error) {
	_, deadline := ctx.Deadline()
	s.writes <- lateWrite{begin, value, deadline, always}
	return s.Write(ctx, point, value)
}
