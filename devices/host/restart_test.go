package host

import (
	"testing"
	"time"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// After a restart the status keeps the values that are not read again yet: uncertain, with
// the time at which they were read.
func TestReportedValuesSurviveARestart(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.driver.values = map[string]string{"a": "7", "b": "8"}
	b.online()
	b.eventually("values", func() bool {
		b.driver.read()
		return b.reported("a").Value == "7" && b.reported("b").Value == "8"
	})
	b.stop()
	was := b.reported("b")
	b.start()
	b.apply()
	b.eventually("session", b.running)
	b.eventually("a is read again", func() bool {
		now := time.Now()
		b.driver.say(devices.Batch{Reachable: true, Time: now, Readings: []devices.Reading{{Point: 0, Value: devices.Int(9), Quality: devices.Good, Time: now}}})
		return b.reported("a").Value == "9"
	})
	is := b.reported("b")
	if is.Value != "8" || is.Metadata["quality"] != "uncertain" || is.Metadata["reason"] != devices.ReasonNotReadYet ||
		is.Metadata["timestamp"] != was.Metadata["timestamp"] || is.Metadata["changedAt"] != was.Metadata["changedAt"] || is.Metadata["age"] == "" {
		t.Fatalf("%+v", is)
	}
	if b.reported("a").Metadata["quality"] != "good" {
		t.Fatalf("%+v", b.reported("a"))
	}
	// A reading that fails does not erase it.
	b.eventually("bad", func() bool {
		now := time.Now()
		b.driver.say(devices.Batch{Reachable: true, Time: now, Readings: []devices.Reading{{Point: 1, Quality: devices.Bad, Reason: "IllegalAddress", Time: now}}})
		return b.reported("b").Metadata["reason"] == "IllegalAddress"
	})
	if is := b.reported("b"); is.Value != "8" || is.Metadata["quality"] != "bad" {
		t.Fatalf("%+v", is)
	}
	b.driver.read()
	b.eventually("b is read again", func() bool {
		b.driver.read()
		return b.reported("b").Metadata["quality"] == "good" && b.reported("b").Metadata["age"] == ""
	})
}

// Values of another type, or of an earlier device of the same name, are not restored.
func TestForeignValuesAreNotRestored(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.driver.values = map[string]string{"a": "7", "b": "8"}
	b.online()
	b.eventually("values", func() bool {
		b.driver.read()
		return b.reported("a").Value == "7" && b.reported("b").Value == "8"
	})
	b.stop()
	b.model.Spec.Properties[1].Type = v1beta1.STRING
	b.start()
	b.apply()
	b.eventually("session", b.running)
	b.eventually("a is read again", func() bool {
		now := time.Now()
		b.driver.say(devices.Batch{Reachable: true, Time: now, Readings: []devices.Reading{{Point: 0, Value: devices.Int(9), Quality: devices.Good, Time: now}}})
		return b.reported("a").Value == "9"
	})
	if is := b.reported("b"); is.Value != "" || is.Metadata != nil {
		t.Fatalf("of another type: %+v", is)
	}
	b.stop()
	b.device.UID = "another"
	b.start()
	b.apply()
	b.eventually("session", b.running)
	b.eventually("b is read", func() bool {
		now := time.Now()
		b.driver.say(devices.Batch{Reachable: true, Time: now, Readings: []devices.Reading{{Point: 1, Value: devices.String("x"), Quality: devices.Good, Time: now}}})
		return b.reported("b").Value == "x"
	})
	if is := b.reported("a"); is.Value != "" {
		t.Fatalf("of another device: %+v", is)
	}
}
