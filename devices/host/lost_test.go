package host

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/devicestest"
)

// A command whose record is left is not carried out again when only the device's memory
// is lost.
func TestCommandOnceThoughMemoryIsLost(t *testing.T) {
	b := commands(t)
	b.online()
	c := devices.Command{ID: "1", Properties: map[string]string{"a": "7"}, Deadline: time.Now().Add(time.Hour)}
	if r := b.command(c); r.Ack != devices.Applied || r.Repeated {
		t.Fatalf("%+v", r)
	}
	b.stop()
	left := b.state.Snapshot()
	delete(left, "ns/d")
	b.state.Restore(left)
	b.driver.set(func() { b.driver.deliver, b.driver.values["a"] = nil, "0" })
	b.start()
	b.online()
	if r := b.command(c); r.Ack != devices.Applied || !r.Repeated {
		t.Fatalf("%+v", r)
	}
	if got := b.driver.written(); got != "a=7" {
		t.Fatal(got)
	}
	// The new state has the segments that exist, no more.
	b.eventually("saved", func() bool {
		return strings.Contains(string(b.state.Snapshot()["ns/d"]), `"segments":1}`)
	})
}

// A command that was interrupted is audited once, by the first start after which the sink
// takes it.
func TestInterruptedCommandIsAuditedOnce(t *testing.T) {
	t.Parallel()
	b := commands(t)
	b.online()
	b.driver.set(func() { b.driver.entered, b.driver.gate = make(chan struct{}), make(chan struct{}) })
	c := devices.Command{ID: "k", Device: devices.Ref{Namespace: "ns", Name: "d"}, Properties: map[string]string{"a": "1"}, Deadline: time.Now().Add(time.Hour)}
	go func() { _, _ = b.host.Command(context.Background(), c) }()
	<-b.driver.entered
	left := b.state.Snapshot()
	b.stop()
	b.driver.set(func() { b.driver.entered = nil })
	b.state.Restore(left) // as a kill would have left it
	open := func() bool {
		return !strings.Contains(string(b.state.Snapshot()["ns/d/commands/0"]), devices.ReasonUnknown)
	}
	audited := func() int {
		return len(b.audits(func(a *devices.Audit) bool { return a.Command == "k" && a.Reason == devices.ReasonUnknown }))
	}

	b.sink.mu.Lock()
	b.sink.fail = errors.New("away")
	b.sink.mu.Unlock()
	b.restart()
	b.stop()
	if !open() || audited() != 0 {
		t.Fatal("saved as audited although the sink stored nothing")
	}
	b.sink.mu.Lock()
	b.sink.fail = nil
	b.sink.mu.Unlock()
	for range 2 {
		b.restart()
		b.eventually("audited and saved", func() bool { return audited() == 1 && !open() })
	}
	b.stop()
	if audited() != 1 {
		t.Fatalf("audited %d times", audited())
	}
}

// countedState counts what is deleted.
type countedState struct {
	*devicestest.State
	deleted []string
}

func (s *countedState) Delete(ctx context.Context, k string) error {
	s.deleted = append(s.deleted, k)
	return s.State.Delete(ctx, k)
}

// Of a device that nothing is kept of nothing is deleted; of another one all is.
func TestForget(t *testing.T) {
	ctx, device := context.Background(), devices.Ref{Namespace: "ns", Name: "d", UID: "u"}
	s := &countedState{State: &devicestest.State{}}
	if err := deleteState(ctx, s, device); err != nil || len(s.deleted) != 0 {
		t.Fatal(err, s.deleted)
	}
	if err := (savedState{UID: "u", Segments: 2}).save(ctx, s, device); err != nil {
		t.Fatal(err)
	}
	if err := deleteState(ctx, s, devices.Ref{Namespace: "ns", Name: "d"}); err != nil || strings.Join(s.deleted, " ") != "ns/d/commands/0 ns/d/commands/1 ns/d" {
		t.Fatal(err, s.deleted)
	}
}
