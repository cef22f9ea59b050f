package modbus

import (
	"strings"
	"testing"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/modbus/codec"
	"github.com/petiole-io/petiole/internal/polltest"
)

// A number that means "no value" is no sample. The last good value stays, and the device is
// online.
func TestNotAvailableIsNoSample(t *testing.T) {
	s := newSlave(t)
	s.set(1, codec.Inputs, 10, 231)
	r := newRig(t)
	r.apply("d", s.addr, nil,
		prop{name: "t", typ: "FLOAT", ro: true, cycle: 20, visitor: visitor("InputRegister", 10, []any{"dataType", "int16", "scale", 0.1, "notAvailable", "0x8000"})},
		prop{name: "other", typ: "INT", ro: true, cycle: 20, visitor: visitor("InputRegister", 11, nil)})
	polltest.Eventually(t, "a value", func() bool { return r.sink.reported("d", "t") == "23.1" })
	s.set(1, codec.Inputs, 10, 0x8000)
	polltest.Eventually(t, "no value", func() bool { return r.sink.twin("d", "t").Reported.Metadata["reason"] == "NotAvailable" })
	n := r.sink.count("d", "other")
	polltest.Eventually(t, "more cycles", func() bool { return r.sink.count("d", "other") > n+3 })
	twin := r.sink.twin("d", "t").Reported
	if twin.Value != "23.1" || twin.Metadata["quality"] != "bad" || r.sink.state("d") != "online" {
		t.Fatal(pretty(twin), r.sink.state("d"))
	}
	r.sink.mu.Lock()
	defer r.sink.mu.Unlock()
	for _, b := range r.sink.samples["d"] {
		for _, x := range b.Samples {
			if f, ok := x.Value.Float64(); x.Property == "t" && ok && (f != 23.1 || x.Quality != devices.Good) {
				t.Fatalf("%+v", x)
			}
		}
	}
}

// Misspelt and ambiguous settings are problems in the status and Events, and the device works.
func TestMisspeltSettingsAreProblems(t *testing.T) {
	s := newSlave(t)
	s.set(1, codec.Holdings, 0, 215, 215)
	r := newRig(t)
	r.apply("d", s.addr, map[string]any{"slaveeID": 3},
		prop{name: "a", typ: "FLOAT", cycle: 20, visitor: holding(0, "dataType", "float", "limit", 1, "scale", 0.1)},
		prop{name: "b", typ: "FLOAT", cycle: 20, visitor: holding(1, "dataType", "float", "limit", 1, "scale", 0.1, "isSwaap", false)})
	polltest.Eventually(t, "values", func() bool {
		return r.sink.reported("d", "a") == "21.5" && r.sink.reported("d", "b") == "21.5" && r.sink.state("d") == "online"
	})
	problems := pretty(r.sink.status("d").Extensions.Data["problems"])
	for _, want := range []string{"slaveeID is not a setting of the driver; did you mean slaveID?", "isSwaap is not a setting of the driver; did you mean isSwap?", "an unsigned 16-bit number times scale", "(also b)"} {
		if !strings.Contains(problems, want) {
			t.Errorf("%q is not in %s", want, problems)
		}
	}
	for _, reason := range []string{devices.ReasonUnknownSetting, devices.ReasonAmbiguous} {
		if e := r.sink.event(reason); e == nil || e.Type != devices.EventWarning {
			t.Errorf("Event %s: %+v", reason, e)
		}
	}
}

// Warnings that say the same of many properties are one problem.
func TestEqualWarningsAreGrouped(t *testing.T) {
	var all []devices.Problem
	for _, p := range strings.Split("abcdefg", "") {
		all = append(all, devices.Problem{Property: p, Reason: "r", Message: "m"}, devices.Problem{Property: p, Reason: "r", Message: "n" + p})
	}
	out := grouped(all)
	if len(out) != 8 || out[0].Property != "a" || out[0].Message != "m (also b, c, d, e and 2 more)" || out[1].Message != "na" {
		t.Fatalf("%+v", out)
	}
}
