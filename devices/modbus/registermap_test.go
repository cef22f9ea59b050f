package modbus

import (
	"strings"
	"testing"
	"time"

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

// A value and its scale are read in one request, and never torn: whatever the device does
// between two requests, no value is off by a power of ten. (Fronius changes the exponent during
// the day.)
func TestScaleRegisterIsReadWithItsValue(t *testing.T) {
	s := newSlave(t)
	s.set(1, codec.Holdings, 100, 6553, 0xfffe)
	r := newRig(t)
	r.apply("d", s.addr, nil,
		prop{name: "power", typ: "FLOAT", cycle: 5, visitor: holding(100, "dataType", "uint16", "scaleRegister", 101)},
		prop{name: "near", typ: "INT", cycle: 5, visitor: holding(103)},
		prop{name: "counter", typ: "FLOAT", ro: true, cycle: 5, visitor: map[string]any{"register": "HoldingRegister", "registers": []any{80, 78}, "dataType": "uint32", "scale": 0.1}},
		prop{name: "bad", typ: "FLOAT", cycle: 5, visitor: holding(100, "dataType", "uint16", "scaleRegister", 100)})
	s.set(1, codec.Holdings, 78, 1774, 5000, 0)
	polltest.Eventually(t, "values", func() bool {
		return r.sink.reported("d", "power") == "65.53" && r.sink.reported("d", "counter") == "177.4"
	})
	for i := range 200 {
		if i%2 == 0 {
			s.set(1, codec.Holdings, 100, 655, 0xffff)
			s.set(1, codec.Holdings, 78, 1774, 5000, 1)
		} else {
			s.set(1, codec.Holdings, 100, 6553, 0xfffe)
			s.set(1, codec.Holdings, 78, 1774, 5000, 0)
		}
		polltest.Eventually(t, "another sample", func() bool { n := r.sink.count("d", "power"); return n > i/4 })
	}
	s.set(1, codec.Holdings, 100, 6553, 0x8000)
	polltest.Eventually(t, "no value", func() bool { return r.sink.twin("d", "power").Reported.Metadata["reason"] == "NotAvailable" })
	for _, q := range s.requests() {
		if q.start <= 100 && q.start+q.count > 100 && q.start+q.count < 102 || q.start <= 80 && q.start+q.count > 80 && q.start > 78 {
			t.Fatalf("a value is torn: %+v", q)
		}
	}
	r.sink.mu.Lock()
	defer r.sink.mu.Unlock()
	for _, b := range r.sink.samples["d"] {
		for _, x := range b.Samples {
			if f, _ := x.Value.Float64(); x.Quality == devices.Good && (x.Property == "power" && f != 65.53 && f != 65.5 || x.Property == "counter" && f != 177.4 && f != 6731) {
				t.Fatalf("%+v", x)
			}
		}
	}
}

// A write uses the scale that the device has now; a group of bits leaves the others alone; names
// are written as the numbers that they stand for.
func TestRegisterMapsAreWritten(t *testing.T) {
	s := newSlave(t)
	s.set(1, codec.Holdings, 5, 0x0561)
	s.set(1, codec.Holdings, 100, 0, 7, 0xfffe)
	r := newRig(t)
	r.apply("d", s.addr, nil,
		prop{name: "limit", typ: "FLOAT", visitor: holding(100, "dataType", "uint16", "scaleRegister", 102), desired: "12.34"},
		prop{name: "mode", typ: "STRING", visitor: holding(5, "bits", "4-6", "values", map[string]any{"3": "manual", "6": "auto"}), desired: "manual"},
		prop{name: "level", typ: "INT", visitor: holding(5, "bits", "8-11")},
		prop{name: "name", typ: "STRING", visitor: holding(20, "limit", 4), desired: "AB"},
		prop{name: "swapped", typ: "INT", visitor: map[string]any{"register": "HoldingRegister", "registers": "31,30", "dataType": "uint32"}, desired: "65538"},
		prop{name: "apart", typ: "INT", visitor: map[string]any{"register": "HoldingRegister", "registers": "40,42", "dataType": "uint32"}, desired: "1"})
	for _, name := range []string{"limit", "mode", "name", "swapped"} {
		polltest.Eventually(t, name, func() bool { return r.sink.ack("d", name) == "applied" })
	}
	polltest.Eventually(t, "values", func() bool {
		return r.sink.reported("d", "limit") == "12.34" && r.sink.reported("d", "mode") == "manual" && r.sink.reported("d", "level") == "5" && r.sink.reported("d", "swapped") == "65538"
	})
	for at, want := range map[int]uint16{5: 0x0531, 100: 1234, 101: 7, 102: 0xfffe, 20: 0x4142, 21: 0, 30: 2, 31: 1, 40: 0, 42: 0} {
		if got := s.get(1, codec.Holdings, at); got != want {
			t.Errorf("register %d: %#x, want %#x", at, got, want)
		}
	}
	if problems := pretty(r.sink.status("d").Extensions.Data["problems"]); !strings.Contains(problems, "not neighbours") {
		t.Error(problems)
	}
}

// What can only be written is not polled, and does not degrade its device. Where nothing can be
// read, the replies to writes show that the device is online.
func TestWriteOnlyRegisters(t *testing.T) {
	s := newSlave(t)
	r := newRig(t)
	only := holding(70, "limit", 1, "readBack", false)
	r.apply("d", s.addr, nil, prop{name: "cmd", typ: "INT", visitor: only, cycle: 10, desired: "1"}, prop{name: "t", typ: "INT", ro: true, visitor: holding(0), cycle: 10})
	r.apply("blind", s.addr, map[string]any{"slaveID": 2}, prop{name: "cmd", typ: "INT", visitor: only, cycle: 10})
	polltest.Eventually(t, "written, online", func() bool {
		return r.sink.ack("d", "cmd") == "applied" && r.sink.state("d") == "online" && r.sink.count("d", "t") > 5
	})
	for _, q := range s.requests() {
		if !q.write && q.start <= 70 && q.start+q.count > 70 {
			t.Fatalf("read: %+v", q)
		}
	}
	if got := s.get(1, codec.Holdings, 70); got != 1 {
		t.Fatal(got)
	}
	if out := r.command("blind", "c1", "cmd", "5"); out.Ack != devices.Applied {
		t.Fatal(pretty(out))
	}
	polltest.Eventually(t, "online", func() bool { return r.sink.state("blind") == "online" })
	plans, _ := Describe(devices.Definition{Config: devices.Settings{"ip": "h"}, Points: []devices.Point{{Name: "cmd", Type: "INT", Writable: true, Cycle: time.Second, Visitor: devices.Merge(only)}}})
	if len(plans) != 0 {
		t.Fatalf("%+v", plans)
	}
}
