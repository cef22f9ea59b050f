package modbus

import (
	"context"
	"math"
	"net"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/modbus/codec"
	"github.com/petiole-io/petiole/internal/polltest"
)

func ref(name string) *corev1.LocalObjectReference { return &corev1.LocalObjectReference{Name: name} }

// The example manifests against a slave: all four tables are read, the desired value
// is written, read back and acknowledged.
func TestExampleDevice(t *testing.T) {
	s := newSlave(t)
	f := math.Float32bits(1.85)
	s.set(1, codec.Inputs, 0, 0xff9c, 0, uint16(f>>16), uint16(f), 1, 0x0002)
	s.set(1, codec.Coils, 0, 1)
	s.set(1, codec.Discretes, 0, 1)
	var m v1beta1.DeviceModel
	var d v1beta1.Device
	example(t, "boiler-model.yaml", &m)
	example(t, "boiler.yaml", &d)
	host, port, err := net.SplitHostPort(s.addr)
	if err != nil {
		t.Fatal(err)
	}
	d.UID, d.Spec.NodeName = "u", "n"
	d.Spec.Protocol.ConfigData.Data["ip"], d.Spec.Protocol.ConfigData.Data["port"] = host, port
	r := newRig(t)
	r.send(&d, &m)
	for property, want := range map[string]string{
		"temperature": "-10", "pressure": "1.85", "hours": "65538", "running": "true", "alarm": "true", "setpoint": "21.5",
	} {
		polltest.Eventually(t, property, func() bool { return r.sink.reported("boiler-1", property) == want })
	}
	polltest.Eventually(t, "ack", func() bool { return r.sink.ack("boiler-1", "setpoint") == "applied" })
	if got := s.get(1, codec.Holdings, 0); got != 215 {
		t.Fatalf("register holds %d", got)
	}
	if st := r.sink.status("boiler-1"); st.State != v1beta1.StateOnline || st.LastOnlineTime == "" {
		t.Fatal(pretty(st))
	}
	tw := r.sink.twin("boiler-1", "setpoint")
	if tw.ObservedDesired.Value != "21.5" || tw.ObservedDesired.Metadata["version"] != "1" || tw.Reported.Metadata["quality"] != "good" ||
		tw.Reported.Metadata["type"] != "float" || tw.Reported.Metadata["timestamp"] == "" {
		t.Fatal(pretty(tw))
	}
	o := r.sink.statuses["boiler-1"][0]
	if o.Namespace != "default" || o.OwnerReferences[0].UID != "u" || !*o.OwnerReferences[0].Controller {
		t.Fatal(pretty(o))
	}
	written, others := r.sink.audited()
	if len(written) != 1 || written[0].Property != "setpoint" || written[0].Before != "0" || written[0].After != "21.5" || written[0].Ack != "applied" {
		t.Fatal(pretty(written))
	}
	if slices.ContainsFunc(others, func(a *devices.Audit) bool { return a.Ack != devices.Pending || a.Reason != devices.ReasonOffline }) {
		t.Fatal(pretty(others))
	}
}

// All the functions that write: 5, 6, 15, 16, and a bit of a register.
func TestWritesReachTheRegister(t *testing.T) {
	s := newSlave(t)
	s.set(1, codec.Holdings, 20, 0x8001)
	r := newRig(t)
	r.apply("d", s.addr, nil,
		prop{name: "coil", typ: "BOOLEAN", visitor: visitor("CoilRegister", 3, nil), desired: "true"},
		prop{name: "coils", typ: "INT", visitor: visitor("CoilRegister", 8, []any{"limit", 12}), desired: "2741"},
		prop{name: "one", typ: "INT", visitor: holding(0, "dataType", "int16"), desired: "-7"},
		prop{name: "two", typ: "INT", visitor: holding(4, "dataType", "int32", "isRegisterSwap", "true"), desired: "305419896"},
		prop{name: "bit", typ: "BOOLEAN", visitor: holding(20, "bit", 4), desired: "true"},
		prop{name: "text", typ: "STRING", visitor: holding(30, "limit", 3), desired: "abc"},
	)
	for _, p := range []string{"coil", "coils", "one", "two", "bit", "text"} {
		polltest.Eventually(t, p, func() bool { return r.sink.ack("d", p) == "applied" })
	}
	bitsOf := 0
	for i := 11; i >= 0; i-- {
		bitsOf = bitsOf<<1 | int(s.get(1, codec.Coils, 8+i))
	}
	if s.get(1, codec.Coils, 3) != 1 || bitsOf != 2741 || s.get(1, codec.Holdings, 0) != 0xfff9 || s.get(1, codec.Holdings, 4) != 0x5678 ||
		s.get(1, codec.Holdings, 5) != 0x1234 || s.get(1, codec.Holdings, 20) != 0x8011 || s.get(1, codec.Holdings, 30) != 0x6162 || s.get(1, codec.Holdings, 31) != 0x6300 {
		t.Fatal("a register does not hold what was acknowledged", bitsOf)
	}
}

// Pains 6 and 7: writes are serialised with polls and do not starve behind them.
func TestPain07WriteReachesRegisterWhilePollsSaturateTheLink(t *testing.T) {
	s := newSlave(t)
	p := newProxy(t, s.addr)
	slow := func(_ byte, answer []byte, send func([]byte)) { time.Sleep(5 * time.Millisecond); send(answer) }
	p.set(func(p *proxy) { p.fault = slow })
	r := newRig(t)
	for _, name := range []string{"a", "b", "c", "e", "f", "g", "h", "i"} {
		r.apply(name, p.addr, map[string]any{"slaveID": 9}, prop{name: "x", typ: "INT", visitor: holding(0), cycle: 1}, prop{name: "y", typ: "INT", visitor: visitor("InputRegister", 0, nil), cycle: 1, ro: true})
	}
	d := r.apply("d", p.addr, nil, prop{name: "set", typ: "INT", visitor: holding(0), cycle: 1})
	polltest.Eventually(t, "polls", func() bool { return r.sink.count("a", "x") > 3 && r.sink.count("d", "set") > 3 })
	s.requests()
	r.desire(d, "set", "77")
	polltest.Eventually(t, "write", func() bool { return s.get(1, codec.Holdings, 0) == 77 })
	log := s.requests()
	if before := slices.IndexFunc(log, func(q request) bool { return q.write }); before > 12 { // 1 to 3; 18 if it waited for its turn as a probe does
		t.Fatalf("the write came after %d requests", before)
	}
	n := r.sink.count("a", "x")
	polltest.Eventually(t, "polls go on", func() bool { return r.sink.count("a", "x") > n+3 })
}

// A desired value that changed five times on the way arrives once, as the newest; it
// is written once, also when it is delivered again and after a restart.
func TestNewestDesiredIsWrittenOnce(t *testing.T) {
	s := newSlave(t)
	r := newRig(t)
	d := r.apply("d", s.addr, nil, prop{name: "set", typ: "INT", visitor: holding(0), cycle: 20, desired: "5"})
	polltest.Eventually(t, "ack", func() bool { return r.sink.ack("d", "set") == "applied" })
	for range 3 {
		r.send(d, nil)
	}
	n := r.sink.count("d", "set")
	polltest.Eventually(t, "polls", func() bool { return r.sink.count("d", "set") > n+3 })
	r.stop()
	again := newRigWith(t, r.state)
	again.rev = 100
	m := &v1beta1.DeviceModel{}
	m.Namespace, m.Name = "ns", "d"
	m.Spec.Properties = []v1beta1.ModelProperty{{Name: "set", Type: "INT", AccessMode: "ReadWrite"}}
	again.send(d, nil) // the device comes before its model
	polltest.Eventually(t, "waiting", func() bool { return again.sink.event("WaitingForModel") != nil })
	again.send(nil, m)
	polltest.Eventually(t, "ack after restart", func() bool { return again.sink.ack("d", "set") == "applied" })
	polltest.Eventually(t, "polls after restart", func() bool { return again.sink.count("d", "set") > 3 })
	if n := s.writes(); n != 1 {
		t.Fatalf("%d writes: %v", n, s.requests())
	}
	if v := again.sink.twin("d", "set").ObservedDesired.Metadata["version"]; v != "1" {
		t.Fatalf("version %s: the value is still the one of version 1", v)
	}
}

// A register that has the value already is not written, but acknowledged.
func TestEqualValueIsAcknowledgedWithoutAWrite(t *testing.T) {
	s := newSlave(t)
	s.set(1, codec.Holdings, 0, 42)
	r := newRig(t)
	r.apply("d", s.addr, nil, prop{name: "set", typ: "INT", visitor: holding(0), desired: "42"})
	polltest.Eventually(t, "ack", func() bool { return r.sink.ack("d", "set") == "applied" })
	if written, _ := r.sink.audited(); s.writes() != 0 || len(written) != 0 {
		t.Fatal("written")
	}
}

// A register that is true already is not overwritten with another truth.
func TestDesiredTruthIsComparedAsOne(t *testing.T) {
	s := newSlave(t)
	s.set(1, codec.Holdings, 0, 5)
	r := newRig(t)
	d := r.apply("d", s.addr, nil, prop{name: "on", typ: "BOOLEAN", visitor: holding(0), cycle: 20, desired: "true"})
	polltest.Eventually(t, "applied", func() bool { return r.sink.ack("d", "on") == "applied" })
	if got := s.get(1, codec.Holdings, 0); got != 5 || s.writes() != 0 {
		t.Errorf("overwritten with %d", got)
	}
	r.desire(d, "on", "false")
	polltest.Eventually(t, "false", func() bool { return r.sink.ack("d", "on") == "applied" && s.get(1, codec.Holdings, 0) == 0 })
}

// While a device is away only the newest of its desired values waits; when it is
// back that one is written, once.
func TestDesiredWaitsForTheDevice(t *testing.T) {
	s := newSlave(t)
	p := newProxy(t, s.addr)
	p.set(func(p *proxy) { p.refuse = true })
	r := newRig(t)
	d := r.apply("d", p.addr, nil, prop{name: "set", typ: "INT", visitor: holding(0), cycle: 50, desired: "1"})
	polltest.Eventually(t, "offline", func() bool { return r.sink.state("d") == v1beta1.StateOffline })
	for _, v := range []string{"2", "3", "4", "5"} {
		r.desire(d, "set", v)
	}
	polltest.Eventually(t, "pending", func() bool {
		o := r.sink.twin("d", "set").ObservedDesired
		return o != nil && o.Value == "5" && o.Metadata["ack"] == "pending"
	})
	p.set(func(p *proxy) { p.refuse = false })
	polltest.Eventually(t, "ack", func() bool { return r.sink.ack("d", "set") == "applied" })
	if s.get(1, codec.Holdings, 0) != 5 || s.writes() != 1 {
		t.Fatal(s.get(1, codec.Holdings, 0), s.writes())
	}
}

// Pain 22: a device that clamps or ignores a write is found out by reading back.
func TestPain22ClampedAndIgnoredWritesAreRejected(t *testing.T) {
	s := newSlave(t)
	s.onWrite = func(_ byte, start int, v []uint16) []uint16 {
		if start == 0 {
			return []uint16{min(v[0], 50)}
		}
		return []uint16{0}
	}
	r := newRig(t)
	r.apply("d", s.addr, nil,
		prop{name: "clamped", typ: "INT", visitor: holding(0), desired: "60"},
		prop{name: "ignored", typ: "INT", visitor: holding(10), desired: "9"},
		prop{name: "fine", typ: "INT", visitor: holding(0, "offset", 0), desired: ""},
	)
	for p, actual := range map[string]string{"clamped": "50", "ignored": "0"} {
		polltest.Eventually(t, p, func() bool { return r.sink.ack("d", p) == "rejected" })
		tw := r.sink.twin("d", p)
		if tw.ObservedDesired.Metadata["reason"] != "ReadBackDiffers" {
			t.Error(pretty(tw))
		}
		polltest.Eventually(t, p+" reported", func() bool { return r.sink.reported("d", p) == actual })
	}
	if r.sink.event("DesiredRejected") == nil {
		t.Fatal("no event")
	}
}

// Values that the model forbids never reach the wire.
func TestForbiddenValuesAreRejectedUnwritten(t *testing.T) {
	s := newSlave(t)
	r := newRig(t)
	r.apply("d", s.addr, nil,
		prop{name: "low", typ: "INT", visitor: holding(0), desired: "1", min: "10", max: "20"},
		prop{name: "high", typ: "FLOAT", visitor: holding(1, "limit", 1, "scale", "0.1"), desired: "20.1", min: "10", max: "20"},
		prop{name: "readonly", typ: "INT", ro: true, visitor: holding(2), desired: "1"},
		prop{name: "text", typ: "INT", visitor: holding(3), desired: "warm"},
		prop{name: "scale", typ: "FLOAT", visitor: holding(4, "limit", 1, "scale", "0.5"), desired: "0.3"},
		prop{name: "good", typ: "INT", visitor: holding(5), desired: "8"},
	)
	for p, reason := range map[string]string{"low": "OutOfBounds", "high": "OutOfBounds", "readonly": "ReadOnly", "text": "NotValid", "scale": "NotValid"} {
		polltest.Eventually(t, p, func() bool { return r.sink.ack("d", p) == "rejected" })
		if got := r.sink.twin("d", p).ObservedDesired.Metadata["reason"]; got != reason {
			t.Errorf("%s: %s", p, got)
		}
	}
	polltest.Eventually(t, "good", func() bool { return r.sink.ack("d", "good") == "applied" })
	if s.writes() != 1 {
		t.Fatal(s.requests())
	}
}

// Invalid settings are reported, and everything else goes on.
func TestBadInputLeavesTheRestAlone(t *testing.T) {
	s := newSlave(t)
	s.set(1, codec.Holdings, 0, 7)
	r := newRig(t)
	r.apply("good", s.addr, nil, prop{name: "x", typ: "INT", visitor: holding(0), cycle: 20})
	r.apply("part", s.addr, nil, prop{name: "x", typ: "INT", visitor: holding(0), cycle: 20},
		prop{name: "bad", typ: "INT", visitor: visitor("MemoryRegister", 0, nil)}, prop{name: "far", typ: "INT", visitor: holding(70000)})
	d := r.apply("proto", s.addr, nil, prop{name: "x", typ: "INT", visitor: holding(0)})
	d.Spec.Protocol.ProtocolName = "canopen"
	d.Spec.Properties[0].Visitors.ProtocolName = "canopen"
	r.send(d, nil)
	r.apply("addr", s.addr, map[string]any{"ip": "", "port": "many"}, prop{name: "x", typ: "INT", visitor: holding(0)})
	extra := r.apply("model", s.addr, nil, prop{name: "x", typ: "INT", visitor: holding(0), cycle: 20})
	extra.Spec.Properties = append(extra.Spec.Properties, v1beta1.DeviceProperty{Name: "nowhere"})
	r.send(extra, nil)
	for name, state := range map[string]string{"good": v1beta1.StateOnline, "part": devices.StateDegraded, "model": devices.StateDegraded} {
		polltest.Eventually(t, name, func() bool { return r.sink.reported(name, "x") == "7" && r.sink.state(name) == state })
	}
	for name, reason := range map[string]string{"proto": "UnknownProtocol", "addr": "InvalidProtocolConfig"} {
		polltest.Eventually(t, name, func() bool {
			st := r.sink.status(name)
			return st != nil && st.State == devices.StateMisconfigured && st.Extensions.Data["reason"] == reason
		})
		polltest.Eventually(t, name+" event", func() bool { return r.sink.event(reason) != nil })
	}
	for name, n := range map[string]int{"part": 2, "model": 1} {
		polltest.Eventually(t, name+" problems", func() bool {
			list, _ := r.sink.status(name).Extensions.Data["problems"].([]any)
			return len(list) == n
		})
	}
	if r.sink.event("PropertyNotInModel") == nil || r.sink.event("InvalidProperty") == nil {
		t.Fatal(pretty(r.sink.events))
	}
}

// Pain 19: a change of one device does not disturb another on the link, nor does a
// change of status or of a desired value restart anything.
func TestPain19ChangesDisturbNobody(t *testing.T) {
	s := newSlave(t)
	p := newProxy(t, s.addr)
	p.set(func(p *proxy) { p.single = true })
	r := newRig(t)
	a := r.apply("a", p.addr, nil, prop{name: "x", typ: "INT", visitor: holding(0), cycle: 10})
	r.apply("b", p.addr, map[string]any{"unitID": "2"}, prop{name: "x", typ: "INT", visitor: holding(0), cycle: 10})
	polltest.Eventually(t, "both", func() bool { return r.sink.count("a", "x") > 0 && r.sink.count("b", "x") > 0 })
	for i := range 5 {
		a.Spec.Properties[0].CollectCycle = int64(5 + i)
		r.send(a, nil)
		r.desire(a, "x", string(rune('1'+i)))
	}
	n, m := r.sink.count("a", "x"), r.sink.count("b", "x")
	polltest.Eventually(t, "both go on", func() bool { return r.sink.count("a", "x") > n+3 && r.sink.count("b", "x") > m+3 })
	if _, accepted := p.connections(); accepted != 1 {
		t.Fatalf("%d connections", accepted)
	}
}

func TestDeleteStopsAndForgets(t *testing.T) {
	s := newSlave(t)
	r := newRig(t)
	d := r.apply("d", s.addr, nil, prop{name: "x", typ: "INT", visitor: holding(0), cycle: 10, desired: "1"})
	polltest.Eventually(t, "ack", func() bool { return r.sink.ack("d", "x") == "applied" })
	if err := r.host.DeleteDevice(context.Background(), "ns", "d", "uid-other"); err != nil {
		t.Fatal(err)
	}
	if err := r.host.DeleteDevice(context.Background(), "ns", "d", string(d.UID)); err != nil {
		t.Fatal(err)
	}
	s.requests()
	if b, err := r.state.Load(context.Background(), "ns/d"); err != nil || b != nil {
		t.Fatalf("%s %v", b, err)
	}
	if got := s.requests(); len(got) != 0 {
		t.Fatal(got)
	}
	if err := r.host.DeleteDevice(context.Background(), "ns", "d", ""); err != nil {
		t.Fatal(err)
	}
	// A device of the same name is another device: its value is written again.
	s.set(1, codec.Holdings, 0, 0)
	d.UID = "uid-2"
	r.send(d, nil)
	polltest.Eventually(t, "written again", func() bool { return s.get(1, codec.Holdings, 0) == 1 })
}

// A value that somebody else changed is reported, and not written again.
func TestDriftIsTold(t *testing.T) {
	s := newSlave(t)
	r := newRig(t)
	r.apply("d", s.addr, nil, prop{name: "x", typ: "INT", visitor: holding(0), cycle: 10, desired: "1"})
	polltest.Eventually(t, "applied", func() bool { return r.sink.ack("d", "x") == "applied" })
	s.set(1, codec.Holdings, 0, 9)
	polltest.Eventually(t, "drifted", func() bool { return r.sink.ack("d", "x") == "drifted" && r.sink.reported("d", "x") == "9" })
	s.set(1, codec.Holdings, 0, 1)
	polltest.Eventually(t, "applied again", func() bool { return r.sink.ack("d", "x") == "applied" })
	if s.writes() != 1 {
		t.Fatal("fought over")
	}
}

// Samples are numbered without gaps and their times never go back.
func TestSamplesAreInOrder(t *testing.T) {
	s := newSlave(t)
	r := newRig(t)
	r.apply("d", s.addr, nil, prop{name: "x", typ: "INT", visitor: holding(0), cycle: 2}, prop{name: "y", typ: "INT", visitor: holding(1), cycle: 5})
	polltest.Eventually(t, "samples", func() bool { return r.sink.count("d", "x") > 50 })
	r.stop()
	for i, b := range r.sink.samples["d"] {
		if b.Sequence != uint64(i+1) || b.Epoch == 0 || b.Node != "n" || b.Device.UID != "uid-d" {
			t.Fatal(i, pretty(b))
		}
		if i > 0 && b.Samples[0].Time < r.sink.samples["d"][i-1].Samples[0].Time {
			t.Fatal("time goes back")
		}
	}
}
