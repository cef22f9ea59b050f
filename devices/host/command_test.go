package host

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// commands are a bench whose device has a method.
func commands(t *testing.T) *bench {
	b := newBench(t)
	b.model.Spec.Properties[0].Minimum, b.model.Spec.Properties[0].Maximum = "0", "100"
	b.device.Spec.Methods = []v1beta1.DeviceMethod{{Name: "start", PropertyNames: []string{"b", "a"}}, {Name: "one", PropertyNames: []string{"a"}}}
	return b
}

func (b *bench) command(c devices.Command) devices.CommandResult {
	b.t.Helper()
	c.Device = devices.Ref{Namespace: "ns", Name: "d", UID: c.Device.UID}
	r, err := b.host.Command(context.Background(), c)
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

func (b *bench) restart() {
	b.t.Helper()
	b.stop()
	b.driver.set(func() { b.driver.deliver = nil })
	b.start()
	b.online()
}

// A command writes once, in the order of its method; repeated, also after a restart,
// it gets the recorded result.
func TestCommandOncePerID(t *testing.T) {
	b := commands(t)
	b.online()
	c := devices.Command{ID: "1", Method: "start", Properties: map[string]string{"a": "7", "b": "8"}}
	r := b.command(c)
	if r.Ack != devices.Applied || r.Repeated || r.ID != "1" || r.Properties["a"] != (devices.PropertyResult{Ack: devices.Applied, Written: true, Sent: "a=7", After: "7"}) {
		t.Fatalf("%+v", r)
	}
	for _, again := range []func(){func() {}, b.restart, b.restart} {
		again()
		if r := b.command(c); r.Ack != devices.Applied || !r.Repeated || r.Properties["b"].After != "8" {
			t.Fatalf("%+v", r)
		}
	}
	if got := b.driver.written(); got != "b=8 a=7" {
		t.Fatal(got)
	}
	audits := b.audits(func(a *devices.Audit) bool {
		return a.Command == "1" && a.Method == "start" && a.Ack == devices.Applied && a.Written
	})
	if len(audits) != 2 || audits[0].Property != "b" {
		t.Fatalf("%+v", audits)
	}
}

// The same value under another id is sent again, and the answer and the record say so.
func TestCommandSendsWhatIsThereAlready(t *testing.T) {
	b := commands(t)
	b.online()
	b.command(devices.Command{ID: "1", Properties: map[string]string{"a": "7"}})
	r := b.command(devices.Command{ID: "2", Properties: map[string]string{"a": "7"}})
	if want := (devices.PropertyResult{Ack: devices.Applied, Written: true, Sent: "a=7", Before: "7", After: "7"}); r.Properties["a"] != want {
		t.Fatalf("%+v", r)
	}
	if got := b.driver.written(); got != "a=7 a=7" {
		t.Fatal(got)
	}
	b.eventually("records", func() bool {
		return len(b.audits(func(a *devices.Audit) bool { return a.Command != "" && a.Written && a.Sent == "a=7" })) == 2
	})
	b.desire("7") // a desired value that is there is not written
	b.eventually("applied", func() bool {
		return len(b.audits(func(a *devices.Audit) bool { return a.Command == "" && a.Ack == devices.Applied && !a.Written })) == 1
	})
	if got := b.driver.written(); got != "a=7 a=7" {
		t.Fatal(got)
	}
}

// What is open about a value that was sent is in the answer, beside applied.
func TestCommandTellsWhatIsOpen(t *testing.T) {
	r := propertyResult(devices.Outcome{Written: true, Sent: "x", Reason: devices.ReasonReset, Message: "it reads zero"}, nil, false, false)
	if r != (devices.PropertyResult{Ack: devices.Applied, Written: true, Sent: "x", Reason: devices.ReasonReset, Message: "it reads zero"}) {
		t.Errorf("%+v", r)
	}
	r = propertyResult(devices.Outcome{Written: true}, devices.ErrUnreachable, false, true)
	if r.Ack != devices.Failed || r.Reason != devices.ReasonUnverified {
		t.Errorf("%+v", r)
	}
	r = propertyResult(devices.Outcome{}, devices.ErrUnreachable, false, false)
	if r.Ack != devices.Failed || r.Reason != devices.ReasonOffline || r.Written {
		t.Errorf("%+v", r)
	}
}

// Callers that ask at the same time share one execution.
func TestCommandAskedAtOnce(t *testing.T) {
	b := commands(t)
	b.online()
	var wg sync.WaitGroup
	var mu sync.Mutex
	first := 0
	for range 20 {
		wg.Go(func() {
			r, err := b.host.Command(context.Background(), devices.Command{ID: "x", Device: devices.Ref{Namespace: "ns", Name: "d"}, Properties: map[string]string{"a": "9"}})
			mu.Lock()
			defer mu.Unlock()
			if err != nil || r.Ack != devices.Applied {
				t.Errorf("%+v %v", r, err)
			}
			if !r.Repeated {
				first++
			}
		})
	}
	wg.Wait()
	if got := b.driver.written(); got != "a=9" || first != 1 {
		t.Fatal(got, first)
	}
}

// What a command must not do is refused as a whole, before anything is written, and
// leaves a record.
func TestCommandRefused(t *testing.T) {
	b := commands(t)
	b.online()
	for reason, c := range map[string]devices.Command{
		devices.ReasonUnknownMethod:   {ID: "1", Method: "stop", Properties: map[string]string{"a": "1"}},
		devices.ReasonNotInMethod:     {ID: "2", Method: "one", Properties: map[string]string{"a": "1", "b": "1"}},
		devices.ReasonUnknownProperty: {ID: "3", Properties: map[string]string{"a": "1", "nowhere": "1"}},
		devices.ReasonReadOnly:        {ID: "4", Properties: map[string]string{"a": "1", "quiet": "1"}},
		devices.ReasonOutOfBounds:     {ID: "5", Method: "start", Properties: map[string]string{"b": "1", "a": "101"}},
		devices.ReasonNotValid:        {ID: "6", Properties: map[string]string{"a": "1.5"}},
		devices.ReasonOtherDevice:     {ID: "7", Device: devices.Ref{UID: "other"}, Properties: map[string]string{"a": "1"}},
	} {
		if r := b.command(c); r.Ack != devices.Rejected || r.Reason != reason || r.Message == "" || len(r.Properties) != 0 {
			t.Errorf("%s: %+v", reason, r)
		}
		if n := len(b.audits(func(a *devices.Audit) bool { return a.Command == c.ID && a.Ack == devices.Rejected && !a.Written })); n != len(c.Properties) {
			b.eventually("audits of "+reason, func() bool {
				return len(b.audits(func(a *devices.Audit) bool { return a.Command == c.ID && a.Reason == reason })) == len(c.Properties)
			})
		}
	}
	for _, c := range []devices.Command{
		{Properties: map[string]string{"a": "1"}},
		{ID: strings.Repeat("x", maxIDLength+1), Properties: map[string]string{"a": "1"}},
		{ID: "8"},
		{ID: "9", Properties: map[string]string{"a": "1"}, Deadline: time.Now().Add(longestDeadline + time.Hour)},
	} {
		if r := b.command(c); r.Ack != devices.Rejected || r.Reason != devices.ReasonNotValid {
			t.Errorf("%+v", r)
		}
	}
	if got := b.driver.written(); got != "" {
		t.Fatal(got)
	}
	if _, err := b.host.Command(context.Background(), devices.Command{ID: "1", Device: devices.Ref{Namespace: "ns", Name: "e"}}); !errors.Is(err, ErrUnknownDevice) {
		t.Fatal(err)
	}
	if n := b.host.Stats().Commands[devices.Rejected]; n != 11 {
		t.Fatalf("%d counted", n)
	}
}

// A command whose deadline passes while it waits, or between two of its properties,
// no longer writes anything.
func TestCommandNotAfterItsDeadline(t *testing.T) { synctest.Test(t, commandNotAfterItsDeadline) }

func commandNotAfterItsDeadline(t *testing.T) {
	b := commands(t)
	b.online()
	if r := b.command(devices.Command{ID: "late", Properties: map[string]string{"a": "1"}, Deadline: time.Now().Add(-time.Second)}); r.Ack != devices.Expired {
		t.Fatalf("%+v", r)
	}
	b.driver.set(func() { b.driver.entered, b.driver.gate = make(chan struct{}), make(chan struct{}) })
	b.desire("50")
	<-b.driver.entered // a desired value is being written
	if r := b.command(devices.Command{ID: "waits", Properties: map[string]string{"a": "2"}, Deadline: time.Now().Add(50 * time.Millisecond)}); r.Ack != devices.Expired || r.Reason != devices.ReasonDeadline {
		t.Fatalf("%+v", r)
	}
	b.driver.gate <- struct{}{}
	done := make(chan devices.CommandResult)
	go func() {
		done <- b.command(devices.Command{ID: "two", Method: "start", Properties: map[string]string{"a": "3", "b": "4"}, Deadline: time.Now().Add(100 * time.Millisecond)})
	}()
	<-b.driver.entered
	b.driver.gate <- struct{}{} // b is written
	<-b.driver.entered          // a waits until it is too late
	if r := <-done; r.Ack != devices.Expired || r.Properties["b"].Ack != devices.Applied || r.Properties["a"].Ack != devices.Expired {
		t.Fatalf("%+v", r)
	}
	if got := b.driver.written(); got != "a=50 b=4" {
		t.Fatal(got)
	}
	b.driver.set(func() { b.driver.deaf = true })
	deadline := time.Now().Add(50 * time.Millisecond)
	go func() {
		done <- b.command(devices.Command{ID: "deaf", Method: "start", Properties: map[string]string{"a": "5", "b": "6"}, Deadline: deadline})
	}()
	<-b.driver.entered
	time.Sleep(time.Until(deadline)) // the driver takes longer than it may
	close(b.driver.gate)
	if r := <-done; r.Properties["b"].Ack != devices.Applied || r.Properties["a"].Ack != devices.Expired {
		t.Fatalf("%+v", r)
	}
	if got := b.driver.written(); got != "a=50 b=4 b=6" {
		t.Fatal(got)
	}
}

// A definition that changes meanwhile ends a command: it was checked against another.
func TestCommandWhileTheDefinitionChanges(t *testing.T) {
	b := commands(t)
	b.online()
	b.driver.set(func() {
		b.driver.entered, b.driver.gate, b.driver.deaf = make(chan struct{}), make(chan struct{}), true
	})
	done := make(chan devices.CommandResult, 1)
	go func() {
		done <- b.command(devices.Command{ID: "1", Method: "start", Properties: map[string]string{"a": "1", "b": "2"}})
	}()
	<-b.driver.entered
	opened := b.driver.opened()
	b.device.Spec.Properties[0].CollectCycle = 9
	b.apply()
	b.eventually("opened again", func() bool { return b.driver.opened() == opened+1 && b.running() })
	close(b.driver.gate)
	if r := <-done; r.Ack != devices.Failed || r.Properties["b"].Ack != devices.Applied || r.Properties["a"].Reason != devices.ReasonInterrupted {
		t.Fatalf("%+v", r)
	}
	if got := b.driver.written(); got != "b=2" {
		t.Fatal(got)
	}
}

// More commands than may wait are refused, those that wait are carried out in order.
func TestCommandsThatWaitAreBounded(t *testing.T) {
	b := commands(t)
	b.online()
	b.driver.set(func() { b.driver.entered, b.driver.gate = make(chan struct{}), make(chan struct{}) })
	results := make(chan devices.CommandResult)
	send := func(i int) {
		go func() {
			results <- b.command(devices.Command{ID: fmt.Sprint(i), Properties: map[string]string{"a": fmt.Sprint(i)}})
		}()
	}
	send(0)
	<-b.driver.entered
	for i := 1; i <= commandQueue; i++ {
		send(i)
		b.eventually("received", func() bool { return b.host.Stats().PendingCommands == int64(i+1) })
	}
	send(commandQueue + 1)
	if r := <-results; r.Ack != devices.Rejected || r.Reason != devices.ReasonBusy {
		t.Fatalf("%+v", r)
	}
	b.driver.set(func() { b.driver.entered = nil })
	close(b.driver.gate)
	var want []string
	for i := range commandQueue + 1 {
		if r := <-results; r.Ack != devices.Applied {
			t.Fatalf("%+v", r)
		}
		want = append(want, fmt.Sprintf("a=%d", i))
	}
	if got := b.driver.written(); got != strings.Join(want, " ") {
		t.Fatal(got)
	}
}

// After a kill while it is carried out, a command is not carried out again, and is not
// reported as applied.
func TestCommandKilledMeanwhile(t *testing.T) {
	b := commands(t)
	b.online()
	b.driver.set(func() { b.driver.entered, b.driver.gate = make(chan struct{}), make(chan struct{}) })
	c := devices.Command{ID: "k", Properties: map[string]string{"a": "1"}, Deadline: time.Now().Add(time.Hour)}
	go func() {
		_, _ = b.host.Command(context.Background(), devices.Command{ID: c.ID, Device: devices.Ref{Namespace: "ns", Name: "d"}, Properties: c.Properties, Deadline: c.Deadline})
	}()
	<-b.driver.entered
	left := b.state.Snapshot()
	if !strings.Contains(string(left["ns/d/commands/0"]), `"k"`) {
		t.Fatalf("%s", left)
	}
	b.stop()
	b.driver.set(func() { b.driver.entered = nil })
	b.state.Restore(left) // as a kill would have left it
	b.restart()
	if r := b.command(c); r.Ack != devices.Failed || r.Reason != devices.ReasonUnknown || !r.Repeated {
		t.Fatalf("%+v", r)
	}
	if got := b.driver.written(); got != "" {
		t.Fatal(got)
	}
	b.eventually("audit", func() bool {
		return len(b.audits(func(a *devices.Audit) bool {
			return a.Command == "k" && a.Property == "a" && a.Value == "1" && a.Reason == devices.ReasonUnknown
		})) == 1
	})
}

// What cannot be recorded is not done, and may be asked for again.
func TestCommandNotRecorded(t *testing.T) {
	b := commands(t)
	b.online()
	b.state.SetFail(errors.New("disk full"))
	c := devices.Command{ID: "1", Properties: map[string]string{"a": "1"}}
	if r := b.command(c); r.Ack != devices.Failed || r.Reason != devices.ReasonStateStore || b.driver.written() != "" {
		t.Fatalf("%+v %s", r, b.driver.written())
	}
	b.state.SetFail(nil)
	if r := b.command(c); r.Ack != devices.Applied || r.Repeated || b.driver.written() != "a=1" {
		t.Fatalf("%+v %s", r, b.driver.written())
	}
}

// A device that is offline, disabled or misconfigured fails a command at once.
func TestCommandToADeviceThatDoesNotAnswer(t *testing.T) {
	synctest.Test(t, commandToADeviceThatDoesNotAnswer)
}

func commandToADeviceThatDoesNotAnswer(t *testing.T) {
	b := commands(t)
	b.online()
	b.driver.set(func() { b.driver.away = true })
	b.driver.read()
	b.eventually("offline", func() bool { return b.status().State == v1beta1.StateOffline })
	start := time.Now()
	if r := b.command(devices.Command{ID: "1", Properties: map[string]string{"a": "1"}}); r.Ack != devices.Failed || r.Reason != devices.ReasonOffline || time.Since(start) > time.Second {
		t.Fatalf("%+v", r)
	}
	b.device.Annotations = map[string]string{devices.AnnotationDisabled: "true"}
	b.apply()
	b.eventually("disabled", func() bool { return b.status().State == devices.StateDisabled && !b.running() })
	if r := b.command(devices.Command{ID: "2", Properties: map[string]string{"a": "1"}}); r.Ack != devices.Failed || r.Reason != devices.ReasonDisabled {
		t.Fatalf("%+v", r)
	}
	b.device.Annotations, b.device.Spec.Protocol.ProtocolName = nil, "none"
	b.apply()
	b.eventually("misconfigured", func() bool { return b.status().State == devices.StateMisconfigured })
	if r := b.command(devices.Command{ID: "3", Properties: map[string]string{"a": "1"}}); r.Ack != devices.Failed || r.Reason != devices.ReasonUnknownProtocol {
		t.Fatalf("%+v", r)
	}
	if got := b.driver.written(); got != "" {
		t.Fatal(got)
	}
}

// Commands go before desired values that wait, and the first property that is not
// applied ends one.
func TestCommandsGoFirstAndStopAtAFailure(t *testing.T) {
	b := commands(t)
	b.online()
	b.driver.set(func() { b.driver.entered, b.driver.gate = make(chan struct{}), make(chan struct{}) })
	b.device.Spec.Properties[0].Desired = &v1beta1.TwinProperty{Value: "1"}
	b.device.Spec.Properties[1].Desired = &v1beta1.TwinProperty{Value: "2"}
	b.apply()
	<-b.driver.entered
	done := make(chan devices.CommandResult, 1)
	go func() { done <- b.command(devices.Command{ID: "first", Properties: map[string]string{"a": "10"}}) }()
	b.eventually("received", func() bool { return b.host.Stats().PendingCommands == 1 })
	close(b.driver.gate)
	<-b.driver.entered
	if r := <-done; r.Ack != devices.Applied {
		t.Fatalf("%+v", r)
	}
	<-b.driver.entered
	b.driver.set(func() { b.driver.entered = nil })
	b.eventually("written", func() bool { return b.driver.written() == "a=1 a=10 b=2" })

	b.driver.set(func() { b.driver.fails = map[string]error{"b": devices.Reject(devices.ReasonRefused, "no")} })
	r := b.command(devices.Command{ID: "stops", Method: "start", Properties: map[string]string{"a": "11", "b": "12"}})
	if r.Ack != devices.Rejected || r.Reason != devices.ReasonRefused || r.Properties["a"] != (devices.PropertyResult{Ack: devices.Failed, Reason: devices.ReasonNotTried, Message: "property b was not applied"}) {
		t.Fatalf("%+v", r)
	}
	if got := b.driver.written(); got != "a=1 a=10 b=2" {
		t.Fatal(got)
	}
}

// A host that stops ends the command that is under way; a deleted device leaves
// nothing behind.
func TestCommandWhileStopping(t *testing.T) {
	b := commands(t)
	b.online()
	b.driver.set(func() { b.driver.entered, b.driver.gate = make(chan struct{}), make(chan struct{}) })
	done := make(chan devices.CommandResult, 1)
	go func() {
		done <- b.command(devices.Command{ID: "1", Method: "start", Properties: map[string]string{"a": "1", "b": "2"}})
	}()
	<-b.driver.entered
	b.stop()
	if r := <-done; r.Ack != devices.Failed || r.Reason != devices.ReasonInterrupted || r.Properties["a"].Reason != devices.ReasonNotTried {
		t.Fatalf("%+v", r)
	}
	b.driver.set(func() { b.driver.entered = nil })
	b.restart()
	if r := b.command(devices.Command{ID: "1", Method: "start", Properties: map[string]string{"a": "1"}}); !r.Repeated || r.Reason != devices.ReasonInterrupted {
		t.Fatalf("%+v", r)
	}
	if err := b.host.DeleteDevice(context.Background(), "ns", "d", ""); err != nil {
		t.Fatal(err)
	}
	if left := b.state.Snapshot(); len(left) != 0 || b.driver.written() != "" {
		t.Fatal(left, b.driver.written())
	}
}
