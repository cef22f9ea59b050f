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

// Desired values of a group are written with one request of function 16, in the order of their
// registers, whatever their names: unlock, mode, value. The same group is written as a whole
// when one of its values changes.
func TestGroupIsWrittenWithOneRequest(t *testing.T) {
	s := newSlave(t)
	p := newProxy(t, s.addr)
	n := functions(p)
	refuse := true
	s.onWrite = func(_ byte, start int, v []uint16) []uint16 {
		if start != 10 || len(v) != 4 || v[0] != 0xcafe {
			refuse = false
			t.Errorf("%d registers at %d: %x", len(v), start, v)
		}
		return v
	}
	group := func(at int, more ...any) map[string]any { return holding(at, append(more, "writeGroup", "control")...) }
	props := []prop{
		{name: "value", typ: "FLOAT", cycle: 20, visitor: group(12, "dataType", "int32", "scale", 0.1), desired: "7000.5"},
		{name: "mode", typ: "STRING", cycle: 20, visitor: group(11, "values", "3=remote"), desired: "remote"},
		{name: "unlock", typ: "INT", cycle: 20, visitor: group(10), desired: "51966"},
		{name: "other", typ: "INT", cycle: 20, visitor: holding(20)},
	}
	r := newRig(t)
	d := r.apply("d", p.addr, nil, props...)
	all := func(ack string) func() bool {
		return func() bool {
			return r.sink.ack("d", "unlock") == ack && r.sink.ack("d", "mode") == ack && r.sink.ack("d", "value") == ack
		}
	}
	polltest.Eventually(t, "applied", all("applied"))
	for i, want := range []uint16{0xcafe, 3, 1, 0x1175} {
		if got := s.get(1, codec.Holdings, 10+i); got != want {
			t.Errorf("register %d: %04x, want %04x", 10+i, got, want)
		}
	}
	if n[16].Load() != 1 || n[6].Load() != 0 {
		t.Fatalf("function 16 %d times, 6 %d times", n[16].Load(), n[6].Load())
	}

	polltest.Eventually(t, "values", func() bool {
		return r.sink.reported("d", "value") == "7000.5" && r.sink.reported("d", "mode") == "remote"
	})
	r.desire(d, "value", "1")
	polltest.Eventually(t, "written again", func() bool { return r.sink.reported("d", "value") == "1" && all("applied")() })
	if n[16].Load() != 2 || n[6].Load() != 0 || !refuse {
		t.Fatalf("function 16 %d times, 6 %d times", n[16].Load(), n[6].Load())
	}
	// If one value is not valid, none is written, and the others say why.
	r.desire(d, "mode", "remotely")
	r.desire(d, "value", "2")
	polltest.Eventually(t, "rejected", func() bool { return r.sink.ack("d", "mode") == "rejected" })
	polltest.Eventually(t, "the others say why", func() bool {
		o := r.sink.twin("d", "value").ObservedDesired
		return o.Metadata["ack"] == "pending" && o.Metadata["reason"] == devices.ReasonGroup && strings.Contains(o.Metadata["message"], "mode")
	})
	if n[16].Load() != 2 {
		t.Fatal("an incomplete group was written")
	}
	r.desire(d, "mode", "remote")
	polltest.Eventually(t, "applied once more", func() bool { return all("applied")() && r.sink.reported("d", "value") == "2" })
	if n[16].Load() != 3 || n[6].Load() != 0 {
		t.Fatalf("function 16 %d times, 6 %d times", n[16].Load(), n[6].Load())
	}
}

// A unit that refuses the block, or keeps another value of it.
func TestGroupThatTheUnitRefuses(t *testing.T) {
	s := newSlave(t)
	s.onWrite = func(_ byte, _ int, v []uint16) []uint16 { return []uint16{v[0], min(v[1], 50)} }
	r := newRig(t)
	props := []prop{
		{name: "a", typ: "INT", cycle: 20, visitor: holding(10, "writeGroup", "g"), desired: "1"},
		{name: "b", typ: "INT", cycle: 20, visitor: holding(11, "writeGroup", "g"), desired: "60"},
		{name: "x", typ: "INT", cycle: 20, visitor: holding(11, "writeGroup", "apart")},
		{name: "y", typ: "INT", cycle: 20, visitor: holding(13, "writeGroup", "apart")},
		{name: "z", typ: "INT", cycle: 20, visitor: holding(20)},
	}
	r.apply("d", s.addr, nil, props...)
	polltest.Eventually(t, "acks", func() bool { return r.sink.ack("d", "a") == "applied" && r.sink.ack("d", "b") == "rejected" })
	if m := r.sink.twin("d", "b").ObservedDesired.Metadata; m["reason"] != devices.ReasonReadBack {
		t.Error(m)
	}
	polltest.Eventually(t, "others", func() bool { return r.sink.count("d", "z") > 2 })
	if problems := pretty(r.sink.status("d").Extensions.Data["problems"]); !strings.Contains(problems, "are not neighbours") || strings.Count(problems, "InvalidProperty") != 2 {
		t.Error(problems)
	}
	// Without readBack nothing is read, and all registers need a value.
	s.requests()
	r.apply("blind", s.addr, map[string]any{"slaveID": 2},
		prop{name: "a", typ: "INT", visitor: holding(10, "writeGroup", "g", "readBack", false), desired: "7"},
		prop{name: "b", typ: "INT", visitor: holding(11, "writeGroup", "g", "readBack", false), desired: "8"})
	polltest.Eventually(t, "applied", func() bool { return r.sink.ack("blind", "a") == "applied" && r.sink.ack("blind", "b") == "applied" })
	for _, q := range s.requests() {
		if q.unit == 2 && (!q.write || q.start != 10 || q.count != 2) {
			t.Errorf("%+v", q)
		}
	}
}

// A scale register that the unit does not have harms no other property.
func TestIllegalScaleRegister(t *testing.T) {
	s := newSlave(t)
	s.hole(codec.Holdings, 102, 103)
	s.set(1, codec.Holdings, 100, 5, 6)
	r := newRig(t)
	r.apply("d", s.addr, nil,
		prop{name: "scaled", typ: "FLOAT", cycle: 20, visitor: holding(100, "dataType", "int16", "scaleRegister", 102), desired: "1"},
		prop{name: "same", typ: "INT", cycle: 20, visitor: holding(100)}, prop{name: "next", typ: "INT", cycle: 20, visitor: holding(101)},
		prop{name: "forbidden", typ: "FLOAT", cycle: 20, visitor: holding(110, "dataType", "int16", "scaleRegister", 112, "notAvailable", "x")})
	polltest.Eventually(t, "values", func() bool {
		return r.sink.reported("d", "same") == "5" && r.sink.reported("d", "next") == "6" && r.sink.ack("d", "scaled") == "rejected" && r.sink.state("d") == "degraded"
	})
	if m := r.sink.twin("d", "scaled"); m.Reported.Metadata["reason"] != "IllegalAddress" || s.get(1, codec.Holdings, 100) != 5 {
		t.Error(pretty(m))
	}
	def := devices.Definition{Config: devices.Settings{"ip": "h", "forbidden": "holding:101"}, Points: []devices.Point{{Name: "p", Type: "FLOAT", Cycle: time.Second, Visitor: devices.Merge(holding(100, "dataType", "int16", "scaleRegister", 102))}}}
	if _, found := Describe(def); len(found) != 1 || !strings.Contains(found[0].Message, "forbidden holding:101") {
		t.Errorf("%+v", found)
	}
}
