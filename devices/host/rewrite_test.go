package host

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// writesAfter returns how many writes there are after a time on synctest's clock.
func (b *bench) writesAfter(d time.Duration) int {
	time.Sleep(d)
	synctest.Wait()
	b.driver.mu.Lock()
	defer b.driver.mu.Unlock()
	return len(b.driver.writes)
}

// onClock runs a test on synctest's clock, on which a bench is online.
func onClock(t *testing.T, test func(b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.stop()
		b.apply()
		synctest.Wait()
		b.driver.read()
		synctest.Wait()
		test(b)
	})
}

// A value with rewriteEvery is written again and again, also while the device has it, until it
// is withdrawn. Each write is recorded, and an Event tells of the first only.
func TestDesiredValueIsRewritten(t *testing.T) {
	onClock(t, func(b *bench) {
		b.desireWith("4000", map[string]string{"rewriteEvery": "30000"})
		if n := b.writesAfter(time.Second); n != 1 {
			t.Fatalf("%d writes", n)
		}
		if n := b.writesAfter(28 * time.Second); n != 1 {
			t.Fatalf("%d writes before the time", n)
		}
		if n := b.writesAfter(10 * time.Minute); n != 21 {
			t.Fatalf("%d writes in ten minutes", n)
		}
		b.driver.mu.Lock()
		for _, w := range b.driver.writes {
			if w != "a=4000" {
				t.Error(w)
			}
		}
		b.driver.mu.Unlock()
		if b.sink.ack("a") != devices.Applied || b.events("DesiredApplied") != 1 {
			t.Fatal(b.sink.ack("a"), b.events("DesiredApplied"))
		}
		if n := len(b.audits(func(a *devices.Audit) bool { return a.Written && a.Ack == devices.Applied })); n != 21 {
			t.Fatalf("%d audits", n)
		}
		b.device.Spec.Properties[0].Desired = nil
		b.apply()
		if n := b.writesAfter(time.Hour); n != 21 {
			t.Fatalf("%d writes after the value was withdrawn", n)
		}
	})
}

// It is not written after its expiresAt, and stays applied.
func TestRewritingExpires(t *testing.T) {
	onClock(t, func(b *bench) {
		b.desireWith("1", map[string]string{"rewriteEvery": "1000", "expiresAt": time.Now().Add(10500 * time.Millisecond).Format(time.RFC3339Nano)})
		if n := b.writesAfter(time.Hour); n != 11 {
			t.Fatalf("%d writes", n)
		}
		if b.sink.ack("a") != devices.Applied || b.events("DesiredExpired") != 0 {
			t.Fatal(b.sink.ack("a"))
		}
	})
}

// While the device is unreachable the value is pending, and afterwards it is written at once.
func TestRewritingSurvivesAnOutage(t *testing.T) {
	onClock(t, func(b *bench) {
		b.setting(true, map[string]any{"rewriteEvery": 1000})
		b.desire("1")
		if n := b.writesAfter(3500 * time.Millisecond); n != 4 {
			t.Fatalf("%d writes", n)
		}
		b.driver.set(func() { b.driver.away = true })
		b.driver.read()
		b.driver.read()
		if n := b.writesAfter(time.Minute); n != 4 || b.sink.ack("a") != devices.Pending {
			t.Fatal(n, b.sink.ack("a"))
		}
		b.driver.set(func() { b.driver.away = false })
		b.driver.read()
		if n := b.writesAfter(500 * time.Millisecond); n != 5 || b.sink.ack("a") != devices.Applied {
			t.Fatal(n, b.sink.ack("a"))
		}
		// After a restart it is written again, although the device has it.
		b.stop()
		b.start()
		b.apply()
		synctest.Wait()
		b.driver.read()
		if n := b.writesAfter(1500 * time.Millisecond); n < 6 || n > 7 {
			t.Fatalf("%d writes after a restart", n)
		}
	})
}

// A device that refuses the value is asked again each time; a value that may not be written at
// all is not.
func TestRefusedValueIsRewritten(t *testing.T) {
	onClock(t, func(b *bench) {
		b.setting(true, map[string]any{"rewriteEvery": 1000})
		b.driver.set(func() { b.driver.fails = map[string]error{"a": devices.Reject(devices.ReasonRefused, "IllegalValue")} })
		b.desire("1")
		b.writesAfter(5 * time.Second)
		if b.sink.ack("a") != devices.Rejected || b.events("DesiredRejected") != 1 {
			t.Fatal(b.sink.ack("a"), b.events("DesiredRejected"))
		}
		b.driver.set(func() { b.driver.fails = nil })
		if n := b.writesAfter(1100 * time.Millisecond); n == 0 || b.sink.ack("a") != devices.Applied {
			t.Fatal(n, b.sink.ack("a"))
		}
		b.desire("no number")
		n := b.writesAfter(0)
		if more := b.writesAfter(time.Minute); more != n || b.sink.ack("a") != devices.Rejected {
			t.Fatal(more, b.sink.ack("a"))
		}
	})
}

// Of the desired values that wait, those with a lower writeOrder are written first. One that the
// device refused is tried again when another was applied.
func TestDesiredValuesHaveAnOrder(t *testing.T) {
	onClock(t, func(b *bench) {
		for i, order := range []int{2, 1} {
			b.device.Spec.Properties[i].Visitors = &v1beta1.VisitorConfig{ConfigData: &v1beta1.CustomizedValue{Data: map[string]any{"writeOrder": order}}}
		}
		b.device.Spec.Properties[1].Desired = &v1beta1.TwinProperty{Value: "4"}
		b.desire("7")
		b.writesAfter(time.Second)
		if got := b.driver.written(); got != "b=4 a=7" {
			t.Fatal(got)
		}
		// b cannot be reached: a waits for it.
		b.driver.set(func() { b.driver.fails = map[string]error{"b": devices.ErrUnreachable} })
		b.device.Spec.Properties[1].Desired = &v1beta1.TwinProperty{Value: "5"}
		b.desire("8")
		b.writesAfter(time.Minute)
		if got := b.driver.written(); got != "b=4 a=7" {
			t.Fatal(got)
		}
		b.driver.set(func() { b.driver.fails = nil })
		b.writesAfter(time.Minute)
		if got := b.driver.written(); got != "b=4 a=7 b=5 a=8" {
			t.Fatal(got)
		}
	})
	onClock(t, func(b *bench) { // without an order a goes first, which the device refuses until b was written
		b.driver.set(func() { b.driver.fails = map[string]error{"a": devices.Reject(devices.ReasonRefused, "IllegalValue")} })
		b.desire("7")
		b.writesAfter(time.Second)
		if b.sink.ack("a") != devices.Rejected {
			t.Fatal(b.sink.ack("a"))
		}
		b.driver.set(func() { b.driver.fails = map[string]error{} })
		b.device.Spec.Properties[1].Desired = &v1beta1.TwinProperty{Value: "4"}
		b.apply()
		b.writesAfter(time.Second)
		if got := b.driver.written(); got != "b=4 a=7" || b.sink.ack("a") != devices.Applied {
			t.Fatal(got, b.sink.ack("a"))
		}
		// A value that fails otherwise is not tried again because of another.
		b.driver.set(func() { b.driver.fails = map[string]error{"a": errors.New("failure")} })
		b.desire("9")
		b.writesAfter(time.Second)
		b.driver.set(func() { b.driver.fails = nil })
		b.device.Spec.Properties[1].Desired = &v1beta1.TwinProperty{Value: "6"}
		b.apply()
		b.writesAfter(time.Second)
		if got := b.driver.written(); strings.Contains(got, "a=9") {
			t.Fatal(got)
		}
	})
}

// Wrong settings are named, and nothing is written again.
func TestWrongRewriteSettings(t *testing.T) {
	onClock(t, func(b *bench) {
		b.desireWith("1", map[string]string{"rewriteEvery": "5"})
		if n := b.writesAfter(time.Minute); n != 0 || b.sink.ack("a") != devices.Rejected {
			t.Fatal(n, b.sink.ack("a"))
		}
		b.device.Spec.Properties[0].Desired = nil
		b.setting(true, map[string]any{"rewriteEvery": 99, "writeOrder": 2000})
		b.desire("2")
		if n := b.writesAfter(time.Minute); n != 1 || b.events(devices.ReasonInvalidReporting) != 1 {
			t.Fatal(n, b.events(devices.ReasonInvalidReporting))
		}
	})
}
