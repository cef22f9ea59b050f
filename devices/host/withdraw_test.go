package host

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/host/hosttest"
)

// gated has every write of the bench's driver wait before it begins; deaf, after.
func gated(t *testing.T, deaf bool) *bench {
	b := newBench(t)
	b.online()
	b.driver.set(func() {
		b.driver.entered, b.driver.gate, b.driver.deaf = make(chan struct{}), make(chan struct{}), deaf
	})
	return b
}

// desireTaken has a value wanted, and returns when the worker knows.
func (b *bench) desireTaken(value string) {
	b.t.Helper()
	b.desire(value)
	b.eventually("taken over", func() bool { b.driver.read(); return b.observed("a") == value })
}

// auditCount returns the number of audits of a value.
func (b *bench) auditCount(value string, ack devices.Ack, written bool) int {
	return len(b.audits(func(a *devices.Audit) bool { return a.Value == value && a.Ack == ack && a.Written == written }))
}

// A value that the driver has not begun to write is not written when another
// one is wanted.
func TestSupersededValueIsNotBegun(t *testing.T) {
	b := gated(t, false)
	b.desire("1")
	<-b.driver.entered
	b.desire("2")
	<-b.driver.entered // no one has opened the gate
	b.eventually("superseded", func() bool { return b.auditCount("1", devices.Superseded, false) == 1 })
	b.driver.gate <- struct{}{}
	b.eventually("applied", func() bool { return b.auditCount("2", devices.Applied, true) == 1 })
	if got, all := b.driver.written(), len(b.audits(func(*devices.Audit) bool { return true })); got != "a=2" || all != 2 {
		t.Fatal(got, all)
	}
}

// Nor is it when no value is desired any longer.
func TestWithdrawnValueIsNotBegun(t *testing.T) {
	b := gated(t, false)
	b.desire("1")
	<-b.driver.entered
	b.device.Spec.Properties[0].Desired = nil
	b.apply()
	b.eventually("superseded", func() bool { return b.auditCount("1", devices.Superseded, false) == 1 })
	if got := b.driver.written(); got != "" {
		t.Fatal(got)
	}
}

// Nor is it when it is only to be observed from now on; it stays desired.
func TestValueToBeObservedIsNotBegun(t *testing.T) {
	b := gated(t, false)
	b.desire("1")
	<-b.driver.entered
	b.driver.set(func() { b.driver.values["a"] = "0" })
	b.device.Spec.Protocol.ConfigData = &v1beta1.CustomizedValue{Data: map[string]any{"driftPolicy": "observe"}}
	b.apply()
	b.eventually("observed", func() bool { b.driver.read(); return b.sink.ack("a") == devices.Drifted })
	if got, n := b.driver.written(), b.auditCount("1", devices.Pending, false); got != "" || n != 0 {
		t.Fatalf("written %q, %d attempts audited", got, n)
	}
}

// Of two values that come while one is being written the first is audited as superseded.
func TestEverySupersededValueIsTold(t *testing.T) {
	b := gated(t, true)
	b.desire("1")
	<-b.driver.entered
	b.desireTaken("2")
	b.desireTaken("3")
	b.eventually("the second is audited", func() bool { return b.auditCount("2", devices.Superseded, false) == 1 })
	b.driver.gate <- struct{}{}
	<-b.driver.entered
	b.driver.gate <- struct{}{}
	b.eventually("all are audited", func() bool {
		return b.auditCount("1", devices.Superseded, true) == 1 && b.auditCount("3", devices.Applied, true) == 1
	})
	if got, all := b.driver.written(), len(b.audits(func(*devices.Audit) bool { return true })); got != "a=1 a=3" || all != 3 {
		t.Fatal(got, all)
	}
}

// A value that is wanted again, after another one, is one of its own.
func TestValueWantedAgain(t *testing.T) {
	b := gated(t, true)
	b.desire("1")
	<-b.driver.entered
	first := b.rev
	b.desireTaken("2")
	b.desireTaken("1")
	b.driver.gate <- struct{}{}
	<-b.driver.entered
	b.driver.gate <- struct{}{} // it finds the value there
	b.eventually("audited", func() bool {
		return b.auditCount("1", devices.Superseded, true) == 1 && b.auditCount("2", devices.Superseded, false) == 1 && b.auditCount("1", devices.Applied, false) == 1
	})
	if a := b.audits(func(a *devices.Audit) bool { return a.Ack == devices.Applied }); a[0].Version == strconv.Itoa(first) || b.driver.written() != "a=1" {
		t.Fatalf("%+v", a[0])
	}
}

// torn is a fake whose writes have begun when their session ends.
type torn struct{ *fake }

func (d torn) Open(def devices.Definition) (devices.Session, []devices.Problem, error) {
	s, p, err := d.fake.Open(def)
	return tornSession{s}, p, err
}

type tornSession struct{ devices.Session }

func (s tornSession) Write(ctx context.Context, _ int, _ string) (devices.Outcome, error) {
	f := s.Session.(fakeSession).fake
	select {
	case f.entered <- struct{}{}:
	case <-ctx.Done():
		return devices.Outcome{}, ctx.Err()
	}
	<-ctx.Done()
	return devices.Outcome{Written: true, Before: "0"}, errors.Join(devices.ErrUnreachable, ctx.Err())
}

// A write that had begun when its session ended is audited, although it is tried again.
func TestWriteCutOffIsTold(t *testing.T) {
	b := newBench(t)
	b.stop()
	b.driver.entered = make(chan struct{})
	h, err := New(Config{Node: "n", Drivers: []devices.Driver{torn{b.driver}}, Sink: b.sink, State: b.state, Clock: &hosttest.Clock{}, Log: zaptest.NewLogger(t), StatusInterval: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if n := b.auditCount("1", devices.Pending, true); n != 2 { // by the change, and by the end
			t.Errorf("audited %d times", n)
		}
	}()
	b.host = h
	b.desire("1")
	<-b.driver.entered
	b.device.Spec.Properties[0].CollectCycle = 7
	b.apply()
	<-b.driver.entered // again, in the next session
	b.eventually("audited", func() bool {
		return len(b.audits(func(a *devices.Audit) bool {
			return a.Written && a.Reason == devices.ReasonInterrupted && a.Before == "0"
		})) == 1
	})
}

// An older object that binds a device elsewhere does not end it.
func TestOlderObjectEndsNothing(t *testing.T) {
	b := newBench(t)
	b.rev = 10
	b.online()
	old := b.device.DeepCopy()
	old.Spec.NodeName = "other"
	if err := b.host.ApplyDevice(context.Background(), old, "9"); err != nil {
		t.Fatal(err)
	}
	operates := func() bool {
		is, err := b.host.Operates(context.Background(), "ns", "d")
		if err != nil {
			t.Fatal(err)
		}
		return is
	}
	if !operates() || b.host.Stats().StaleObjects != 1 {
		t.Fatal("ended by an older object")
	}
	if err := b.host.ApplyDevice(context.Background(), old, "12"); err != nil {
		t.Fatal(err)
	}
	if operates() {
		t.Fatal("not ended by a newer object")
	}
	b.eventually("stopped", func() bool { return b.host.Stats().Devices[v1beta1.StateOnline] == 0 })
}
