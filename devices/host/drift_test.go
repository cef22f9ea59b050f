package host

import (
	"strconv"
	"testing"
	"time"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// desireWith desires a value of property a with metadata.
func (b *bench) desireWith(value string, metadata map[string]string) {
	b.t.Helper()
	b.device.Spec.Properties[0].Desired = &v1beta1.TwinProperty{Value: value, Metadata: metadata}
	b.apply()
}

// turn changes the value at the device itself, and has it read.
func (b *bench) changeAtDevice(value string) {
	b.driver.set(func() { b.driver.values["a"] = value })
	time.Sleep(2 * time.Millisecond) // the times of readings and writes are compared in milliseconds
	b.driver.read()
}

// By default drift is reported and not acted on, and it ends when the value is back.
func TestDriftIsReported(t *testing.T) {
	b := newBench(t)
	b.online()
	b.desire("5")
	b.eventually("applied", func() bool { return b.sink.ack("a") == devices.Applied })
	b.changeAtDevice("6")
	b.eventually("drifted", func() bool { return b.sink.ack("a") == devices.Drifted && b.reported("a").Value == "6" })
	b.changeAtDevice("5")
	b.eventually("back", func() bool { return b.sink.ack("a") == devices.Applied })
	if got := b.driver.written(); got != "a=5" || b.host.Stats().Writes[devices.Drifted] != 1 {
		t.Fatal(got, b.host.Stats().Writes)
	}
}

// With enforce the value is written again, which is recorded; so it is after the
// device restarted and forgot it.
func TestDriftIsEnforced(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.online()
	b.desireWith("5", map[string]string{"DriftPolicy": "Enforce"})
	b.eventually("applied", func() bool { return b.driver.written() == "a=5" && b.sink.ack("a") == devices.Applied })
	b.changeAtDevice("6")
	b.eventually("enforced", func() bool { return b.driver.written() == "a=5 a=5" && b.sink.ack("a") == devices.Applied })
	b.eventually("audit", func() bool {
		return len(b.audits(func(a *devices.Audit) bool {
			return a.Reason == devices.ReasonEnforced && a.Written && a.Before == "6" && a.After == "5"
		})) == 1
	})
	b.driver.set(func() { b.driver.away = true })
	b.driver.read()
	b.eventually("offline", func() bool { return b.status().State == v1beta1.StateOffline })
	b.driver.set(func() { b.driver.away = false })
	b.changeAtDevice("0")
	b.eventually("enforced after restart", func() bool { return b.driver.written() == "a=5 a=5 a=5" && b.sink.ack("a") == devices.Applied })
}

// With observe nothing is ever written: the ack shows whether the device has the value.
func TestDriftIsObserved(t *testing.T) {
	b := newBench(t)
	b.device.Spec.Properties[0].Visitors = &v1beta1.VisitorConfig{ConfigData: &v1beta1.CustomizedValue{Data: map[string]any{"driftpolicy": "observe", "x": 1}}}
	b.turnOnWith("3")
	b.desire("5")
	b.eventually("drifted", func() bool { return b.sink.ack("a") == devices.Drifted })
	b.changeAtDevice("5")
	b.eventually("applied", func() bool { return b.sink.ack("a") == devices.Applied })
	b.desire("4")
	b.eventually("drifted again, by what is known", func() bool { return b.sink.ack("a") == devices.Drifted && b.observed("a") == "4" })
	if got := b.driver.written(); got != "" {
		t.Fatal(got)
	}
	b.desireWith("4", map[string]string{"driftPolicy": "once"})
	b.eventually("written", func() bool { return b.driver.written() == "a=4" })
	if v := b.driver.def.Points[0].Visitor; len(v) != 1 {
		t.Fatalf("the driver sees %v", v)
	}
}

func (b *bench) turnOnWith(value string) {
	b.t.Helper()
	b.driver.set(func() { b.driver.values["a"] = value })
	b.online()
}

// A desired value whose time is over before the device could be told is never
// written; one whose time cannot be read is refused.
func TestDesiredExpires(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.online()
	b.driver.set(func() { b.driver.away = true })
	b.desireWith("5", map[string]string{"expiresAt": strconv.FormatInt(time.Now().Add(100*time.Millisecond).UnixMilli(), 10)})
	b.eventually("expired", func() bool { return b.sink.ack("a") == devices.Expired })
	b.driver.set(func() { b.driver.away = false })
	b.driver.read()
	b.desireWith("6", map[string]string{"expiresAt": time.Now().Add(-time.Minute).Format(time.RFC3339)})
	b.eventually("expired at once", func() bool { return b.sink.ack("a") == devices.Expired && b.observed("a") == "6" })
	b.desireWith("7", map[string]string{"expiresAt": "tomorrow"})
	b.eventually("refused", func() bool { return b.sink.ack("a") == devices.Rejected })
	b.desireWith("7", map[string]string{"driftPolicy": "always"})
	b.eventually("refused", func() bool {
		return b.sink.ack("a") == devices.Rejected && b.host.Stats().Writes[devices.Rejected] == 2
	})
	b.desireWith("8", map[string]string{"expiresAt": time.Now().Add(time.Minute).Format(time.RFC3339)})
	b.eventually("applied", func() bool { return b.sink.ack("a") == devices.Applied })
	if got := b.driver.written(); got != "a=8" {
		t.Fatal(got)
	}
	b.restart()
	if got := b.driver.written(); got != "a=8" {
		t.Fatal(got)
	}
	if n := len(b.audits(func(a *devices.Audit) bool { return a.Ack == devices.Expired && !a.Written })); n != 2 {
		t.Fatalf("%d audits", n)
	}
}
